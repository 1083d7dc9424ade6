"""The benchmark of freed memory, with one step per process."""

import json
import sys

import pytest

from fnet_t5x.benchmarks import host_memory


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='a setting of glibc')
def test_prints_the_table_and_writes_json(tmp_path, capfd):
  path = tmp_path / 'memory.json'
  host_memory.main(
    [
      *('--batch', '8', '--inputs', '32', '--steps', '1', '--rounds', '1'),
      *('--json', str(path)),
    ]
  )
  said = capfd.readouterr().out
  assert 'pages per step' in said
  content = json.loads(path.read_text())
  assert content['settings']['batch'] == 8
  returned, kept = content['rows']
  assert (returned['side'], kept['side']) == host_memory.SIDES
  assert kept['pages'] < returned['pages']
  assert returned['speedup'] == 1
  for row in content['rows']:
    assert 0 < row['least_seconds'] <= row['median_seconds']
    assert row['peak_bytes'] > 2**28


@pytest.mark.parametrize(
  ('arguments', 'line'),
  [
    (['--rounds', '0'], ': at least 1'),
    (['--size', 'huge'], 'invalid choice'),
    (['--json', '/nowhere/x.json'], 'there is no folder /nowhere'),
  ],
)
def test_bad_input_is_one_line(capsys, arguments, line):
  with pytest.raises(SystemExit) as error:
    host_memory.main(arguments)
  assert error.value.code == 2
  assert line in capsys.readouterr().err.splitlines()[-1]
