"""The study of mixers at tiny sizes: options, runs, resumption, table."""

import json
import math

import jax
import numpy as np
import pytest

from fnet_t5x.benchmarks import (
  masked_rows,
  mixer_data,
  mixers,
  mixers_summary,
)

SMALL = [
  *('--steps', '20', '--seeds', '5', '--layers', '2', '--embed', '16'),
  *('--heads', '2', '--mlp', '32', '--decoder_layers', '1', '--length', '32'),
  *('--rows', '4', '--train_rows', '64', '--validation_rows', '8'),
  *('--cores', '0'),
]
RECALL = [*SMALL, '--text', 'synthetic:recall']


def test_sizes_are_those_given():
  options = mixers.parse([*SMALL, '--models', 'fourier+1', '--size', 'base'])
  assert options.models == ['none', 'attention', 'none+1', 'fourier+1']
  assert (options.layers, options.embed, options.mlp) == (2, 16, 32)
  options = mixers.parse(['--steps', '1', '--size', 'mini', '--length', '8'])
  assert (options.layers, options.embed, options.heads) == (4, 256, 4)
  assert (options.mlp, options.decoder_layers) == (512, 4)
  for size in mixers.SIZES.values():
    assert size['embed'] % size['heads'] == 0


def test_targets_follow_the_objective():
  arguments = ['--steps', '1', '--length', '30', '--objective']
  assert mixers.parse([*arguments, 'span_corruption']).targets == 8
  assert mixers.parse([*arguments, 'prefix_lm']).targets == 30


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([], 'either --minutes or --steps'),
    (['--steps', '1', '--models', 'bert'], 'bert: choose from fourier'),
    (['--steps', '1', '--models', 'fourier+4'], 'from 1 to 3'),
    (['--steps', '1', '--embed', '10'], 'not a multiple of --heads 4'),
    (['--steps', '1', '--layers', '0'], '--layers 0: must be at least 1'),
    (['--steps', '1', '--length', '0'], '--length 0: must be at least 1'),
    (['--steps', '1', '--text', 'synthetic:copy'], 'choose synthetic:recall'),
    (
      [
        *('--steps', '1', '--text', 'synthetic:recall'),
        *('--objective', 'prefix_lm'),
      ],
      'is for --objective masked_lm',
    ),
  ],
)
def test_bad_input_is_named(arguments, message, capsys):
  with pytest.raises(SystemExit) as error:
    mixers.parse(arguments)
  assert error.value.code == 2
  found = capsys.readouterr().err
  assert message in found and found.count('\n') == 1


def test_masks_differ_by_step_and_are_fixed_in_validation():
  random = np.random.default_rng(0)
  text = random.integers(3, 50, (6, 20), np.int32)
  masking = masked_rows.Masking(60, np.arange(3, 50))
  rows = np.array([4, 1])

  @jax.jit
  def batch(text, key):
    return mixer_data.masked_batch(
      None, {'inputs': text}, rows, key, masking=masking
    )

  first, second = (batch(text, jax.random.key(i)) for i in range(2))
  assert not np.array_equal(
    first['predicted_positions'], second['predicted_positions']
  )
  weights = np.asarray(first['decoder_loss_weights'])
  assert (weights == 1).all() and weights.shape == (2, 3)
  # Rows with masks are read as they are.
  fixed = {
    'inputs': text,
    'positions': np.tile([3, 5, 7], (6, 1)),
    'targets': np.tile([8, 9, 0], (6, 1)),
  }
  found = mixer_data.masked_batch(None, fixed, rows)
  assert found['decoder_loss_weights'].tolist() == [[1, 1, 0]] * 2
  for name, side in (
    ('encoder_input_tokens', 'inputs'),
    ('predicted_positions', 'positions'),
    ('decoder_target_tokens', 'targets'),
  ):
    np.testing.assert_array_equal(found[name], fixed[side][rows])


@pytest.mark.slow
def test_runs_are_complete_and_continued(tmp_path, capsys):
  path, picture = tmp_path / 'runs.json', tmp_path / 'curves.png'
  arguments = [*RECALL, '--models', 'fourier', '--json', str(path)]
  mixers.main(arguments)
  printed = capsys.readouterr()
  assert printed.out.startswith('attention less no mixing at all: ')
  content = json.loads(path.read_text())
  runs = {run['model']: run for run in content['rows']}
  assert list(runs) == ['none', 'attention', 'fourier']
  for run in runs.values():
    assert run['steps'] == 20 and run['seconds'] > 0
    assert math.isfinite(run['loss']) and 0 <= run['accuracy'] <= 1
    assert run['points'][-1]['steps'] == 20
    close = run['parameters'] / runs['attention']['parameters']
    assert 0.9 < close < 1.1
  assert runs['fourier']['mlp_dim'] > runs['attention']['mlp_dim'] == 32
  # A run is missing: it alone is trained again, with the same result.
  lost = content['rows'].pop(0)
  path.write_text(json.dumps(content))
  mixers.main([*arguments, '--figure', str(picture)])
  assert capsys.readouterr().err.count(', seed ') == 1
  again = json.loads(path.read_text())['rows']
  assert again[:2] == content['rows']
  assert again[2]['loss'] == lost['loss']
  assert picture.read_bytes().startswith(b'\x89PNG')
  with pytest.raises(SystemExit):
    mixers.main([*arguments, '--learning_rate', '0.5'])
  assert 'learning_rate 0.01, not 0.5' in capsys.readouterr().err


@pytest.fixture
def characters(tmp_path, monkeypatch):
  """Options for a text of six characters, its space included."""
  text = tmp_path / 'text.txt'
  text.write_text('abc abc dab cab bad. ' * 400)
  monkeypatch.setenv('FNET_T5X_CACHE_DIR', str(tmp_path))
  return [*SMALL, '--text', str(text), '--characters', '--pieces', '60']


@pytest.mark.slow
def test_tokens_are_characters(characters):
  rows = mixer_data.rows_of(mixers.parse([*characters, '--models', 'none']))
  train, validation = rows.data
  # Special ids, line breaks, tab, the text's, and 100 sentinels, in all 128.
  assert rows.vocab_size == 128
  assert set(train) == {'inputs'} and train['inputs'].shape == (64, 32)
  text = np.unique(train['inputs'])
  text = text[text > 2]
  assert len(text) == 6
  mask_id = 3 + 4 + 6 + 100 - 1
  assert set(np.unique(validation['inputs'])) <= {0, 1, *text, mask_id}
  masked = np.asarray(validation['inputs']) == mask_id
  assert 0 < masked.sum() < (validation['targets'] > 0).sum()
  assert validation['targets'].shape == (8, 5)


@pytest.mark.slow
def test_the_encoder_of_a_decoder_is_compared(characters):
  options = mixers.parse(
    [
      *(*characters, '--objective', 'span_corruption'),
      *('--layers', '1', '--models', 'fourier'),
    ]
  )
  rows = mixer_data.rows_of(options)
  assert rows.data[0]['targets'].shape == (64, 8)
  options.models = ['fourier']
  (run,) = mixers.train(options, rows)
  assert run['steps'] == 20 and math.isfinite(run['loss'])
  assert run['mlp_dim'] > options.mlp


@pytest.mark.slow
def test_decoders_are_compared(characters):
  """None of them sees what it predicts."""
  options = mixers.parse(
    [*characters, '--objective', 'causal_lm', '--models', 'toeplitz+1']
  )
  assert options.models == ['none', 'attention', 'none+1', 'toeplitz+1']
  rows = mixer_data.rows_of(options)
  batch = rows.make_batch(None, rows.data[0], np.arange(2))
  text = np.asarray(rows.data[0]['inputs'][:2])
  np.testing.assert_array_equal(batch['decoder_target_tokens'], text)
  np.testing.assert_array_equal(
    batch['decoder_input_tokens'][:, 1:], text[:, :-1]
  )
  np.testing.assert_array_equal(batch['decoder_loss_weights'], text > 0)
  options.models = ['toeplitz+1']
  (run,) = mixers.train(options, rows)
  assert run['steps'] == 20 and math.isfinite(run['loss'])
  assert run['mlp_dim'] > options.mlp


def test_decoders_have_causal_mixings(capsys):
  arguments = ['--steps', '1', '--objective', 'causal_lm', '--models']
  with pytest.raises(SystemExit):
    mixers.parse([*arguments, 'hartley'])
  message = 'hartley: choose from attention, fourier, toeplitz, none'
  assert message in capsys.readouterr().err


def record(model, seed, loss, seconds=10.0):
  points = [
    {'at': 'time', 'steps': 50, 'seconds': seconds / 2, 'loss': loss + 1},
    {'at': 'time', 'steps': 100, 'seconds': seconds, 'loss': loss},
  ]
  return {
    'model': model,
    'seed': seed,
    'parameters': 12345,
    'mlp_dim': 64,
    'accuracy': loss / 10,
    **points[-1],
    'points': points,
  }


def test_the_table_has_means_and_controls():
  records = [
    record('none', 1, 3.0),
    record('none', 2, 3.2),
    record('fourier', 1, 2.0, seconds=20.0),
    record('fourier', 2, 2.4, seconds=20.0),
  ]
  controls = {'none': 'none', 'fourier': 'none'}
  none, fourier = mixers_summary.as_rows(records, controls)
  assert len(fourier) == len(mixers_summary.COLUMNS)
  assert fourier == [
    *('fourier', '12,345', '64', '100', '20', '200.0'),
    *('2.2000', '0.4000', '0.2200', '-0.9000'),
    # The other has taken 10 seconds: half of its time.
    *('2.2000', '3.2000'),
    '9.03',
  ]
  assert none[9] == ''
