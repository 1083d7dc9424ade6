"""The table of collectives, for a tiny network."""

import json

import pytest

from fnet_t5x.benchmarks import collectives

SMALL = [
  *('--batch', '8', '--inputs', '16', '--targets', '8'),
  '--gin',
  'NUM_ENCODER_LAYERS = 2',
  'NUM_DECODER_LAYERS = 1',
  'NUM_ATTENTION_LAYERS = 1',
  'VOCAB_SIZE = 128',
]


@pytest.mark.slow
def test_prints_the_table_and_writes_json(tmp_path, capsys):
  path = tmp_path / 'collectives.json'
  collectives.main(['--layouts', 'data', *SMALL, '--json', str(path)])
  table = capsys.readouterr().out
  assert 'data (8, 1)' in table
  assert 'encoder, forward: nothing' in table
  rows = json.loads(path.read_text())['rows']
  encoders = [row for row in rows if row['program'] == 'encoder, forward']
  # Data parallelism: only gradients are summed.
  assert {row['kind'] for row in encoders} == {'none'}
  steps = [row for row in rows if row['program'] == 'training step']
  assert {row['network'] for row in steps} == {'hybrid', 'T5'}
  gradients = {
    row['network']: row['bytes'] for row in steps if row['kind'] == 'all-reduce'
  }
  # The hybrid lacks the parameters of one attention layer.
  assert 0 < gradients['hybrid'] < gradients['T5']
