"""The comparison of encoders at tiny shapes: table, JSON, and the loss."""

import json

import pytest

from fnet_t5x.benchmarks import encoders as command
from fnet_t5x.benchmarks.accelerator import encoder_networks


@pytest.mark.slow
def test_prints_the_table_and_writes_json(tmp_path, capsys):
  path = tmp_path / 'encoders.json'
  command.main(
    '--size toy --lengths 8 12 --rows 2 --rounds 3 --seconds 0 '
    f'--encoders FNet FF-only --json {path}'.split()
  )
  table = capsys.readouterr().out
  assert '8 tokens x 2' in table and '12 tokens x 2' in table
  content = json.loads(path.read_text())
  assert content['settings']['layers'] == 2
  timed = {
    (row['encoder'], row['length'], row['direction']) for row in content['rows']
  }
  assert len(timed) == 3 * 2 * 2
  for row in content['rows']:
    assert row['encoder'] in table
    assert 0 < row['least_seconds'] <= row['median_seconds']
    if row['encoder'] == encoder_networks.BASELINE:
      assert row['speedup'] == 1


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--lengths', '0'], 'at least 1'),
    (['--rows', '0'], 'at least 1'),
    (['--dtype', 'int8'], 'int8'),
    (['--encoders', 'GPT'], 'GPT'),
  ],
)
def test_bad_input_is_named(arguments, message, capsys):
  with pytest.raises(SystemExit) as error:
    command.main(arguments)
  assert error.value.code != 0
  assert message in capsys.readouterr().err
