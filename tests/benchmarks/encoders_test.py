"""The comparison of encoders at tiny shapes: table, JSON, and the loss."""

import json

import jax
import numpy as np
import pytest

from fnet_t5x.benchmarks import encoders


@pytest.mark.slow
def test_prints_the_table_and_writes_json(tmp_path, capsys):
  path = tmp_path / 'encoders.json'
  encoders.main(
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
    if row['encoder'] == encoders.BASELINE:
      assert row['speedup'] == 1


def test_every_encoder_has_its_mixing():
  options = encoders.parse(['--size', 'base'])
  layouts = {
    name: encoders.make_network(name, options, 512).config.mixings
    for name in encoders.ENCODERS
  }
  assert layouts['BERT'] == ('attention',) * 12
  assert layouts['FNet'] == ('fourier',) * 12
  assert layouts['FNet-Hybrid'] == ('fourier',) * 10 + ('attention',) * 2


def test_untrained_loss_is_that_of_uniform_guesses():
  options = encoders.parse(['--size', 'toy', '--layers', '1'])
  module = encoders.make_network('FF-only', options, 16)
  batch = encoders.make_batch(2, 16, 64)
  assert batch['places'].shape == (2, 2)

  @jax.jit
  def untrained_loss(key, batch):
    variables = module.init(key, batch['tokens'], enable_dropout=False)
    return encoders.loss(module, variables['params'], batch)

  got = untrained_loss(jax.random.key(0), batch)
  assert abs(float(got) - np.log(64) - np.log(2)) < 0.2


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
    encoders.main(arguments)
  assert error.value.code != 0
  assert message in capsys.readouterr().err
