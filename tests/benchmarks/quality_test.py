"""The comparison of equal training at tiny shapes: records, table, figure."""

import json

import numpy as np
import pytest

from fnet_t5x.benchmarks import (
  equal_training,
  quality,
  quality_figure,
  quality_summary,
)
from fnet_t5x.benchmarks.accelerator import networks, timed_training
from fnet_t5x.benchmarks.accelerator.prepared_corpus import PreparedCorpus
from fnet_t5x.costs import flops

SMALL = [
  '--size=toy',
  '--steps=4',
  '--inputs=8',
  '--targets=6',
  '--rows=2',
  '--validation_rows=4',
]


def corpus():
  random = np.random.default_rng(0)
  return PreparedCorpus(
    32,
    'task',
    {
      f'{split}_{side}': random.integers(3, 32, (rows, length))
      for split, rows in (('train', 8), ('validation', 4))
      for side, length in (('inputs', 8), ('targets', 6))
    },
  )


def record(model, seed, losses, speed=1.0):
  points = [
    {
      'at': 'time',
      'share': i / len(losses),
      'seconds': 10.0 * i,
      'steps': int(100 * i * speed),
      'flops': 1e12 * i,
      'loss': loss,
    }
    for i, loss in enumerate(losses, start=1)
  ]
  return {
    'model': model,
    'seed': seed,
    'parameters': 10_000_000,
    **points[-1],
    'points': points,
  }


@pytest.mark.slow
def test_every_network_trains_as_many_steps(monkeypatch, request):
  # Two networks of few layers, which are fast to compile: the controls that are
  # always trained have a test of their own.
  monkeypatch.setattr(quality, 'CONTROLS', ())
  few = {'num_encoder_layers': 1, 'num_decoder_layers': 1}
  monkeypatch.setitem(networks.SIZES, 'toy', networks.SIZES['toy'] | few)
  networks.matched_depth.cache_clear()
  request.addfinalizer(networks.matched_depth.cache_clear)
  options = quality.parse([*SMALL, '--models', 'gpt2,none', '--seeds', '5,6'])
  saved, rates = [], []
  train_for = timed_training.train_for

  def recording(*arguments, peak_rate, **settings):
    rates.append(peak_rate)
    return train_for(*arguments, peak_rate=peak_rate, **settings)

  monkeypatch.setattr(timed_training, 'train_for', recording)
  found = quality.train(
    options, corpus(), lambda records: saved.append(list(records))
  )
  runs = [(run['model'], run['seed']) for run in found]
  # The second seed begins with the second network.
  assert runs == [('GPT-2', 5), ('none', 5), ('none', 6), ('GPT-2', 6)]
  assert [len(records) for records in saved] == [1, 2, 3, 4]
  own, others = quality.GPT2_LEARNING_RATE, options.learning_rate
  assert rates == [own, others, others, own] and own != others
  assert [run['learning_rate'] for run in found] == rates
  for run in found:
    assert run['steps'] == 4 and np.isfinite(run['loss'])
    steps = [point['steps'] for point in run['points']]
    assert steps == sorted(steps) and steps[-1] == 4
    for point in run['points']:
      assert point['flops'] == point['steps'] * run['flops_per_step']
  gpt2, none = found[:2]
  gpt2_module = networks.make_matched(
    networks.DECODER_ONLY, 'toy', vocab_size=32
  )
  by_formula = flops.decoder_only_flops(gpt2_module.config, 8 + 6).training
  assert gpt2['flops_per_step'] == 2 * by_formula
  assert gpt2['parameters'] == networks.count_parameters(gpt2_module)
  assert none['flops_per_step'] > 0
  assert quality_figure.draw(found).startswith(b'\x89PNG')


def test_differences_are_those_of_a_seed():
  records = [
    record('T5', 1, [5, 3.0]),
    record('none', 1, [5, 3.5]),
    record('none', 2, [5, 3.2]),
    record('T5', 2, [5, 3.3]),
    record('T5', 3, [5, 1.0]),
  ]
  found = quality_summary.differences(records, 'T5', 'none')
  np.testing.assert_allclose(found, [-0.5, 0.1])
  line = quality_summary.context_line(records)
  assert '-0.5000, +0.1000' in line and '1 of 2 seeds' in line
  assert 'little use of context' in line
  assert 'context counts' in quality_summary.context_line(records[:2])
  # The difference of seed 1 is within two standard errors.
  uncertain = [{**r, 'standard_error': 0.3} for r in records[:2]]
  assert quality_summary.is_better(uncertain, 'T5', 'none') == [False]
  assert 'little use of context' in quality_summary.context_line(uncertain)


def test_losses_at_equal_steps_are_interpolated():
  run = record('T5', 1, [5.0, 3.0, 2.0])
  assert quality_summary.loss_at(run, 'steps', 150) == 4.0
  assert quality_summary.loss_at(run, 'seconds', 30) == 2.0
  assert quality_summary.loss_at(run, 'flops', 5e11) is None
  assert quality_summary.loss_at(run, 'steps', 301) is None


def test_the_table_has_medians_and_equal_costs():
  records = [
    record('hybrid', 1, [4.0, 2.0], speed=2),
    record('hybrid', 2, [4.0, 2.4], speed=2),
    record('hybrid', 3, [4.0, 2.2], speed=2),
    *(record('control', seed, [4.0, 3.0]) for seed in (1, 2, 3)),
  ]
  hybrid, control = quality_summary.as_rows(records)
  assert hybrid == [
    'hybrid',
    '10.00M',
    '400',
    '2',
    '2.2000',
    '2.0000',
    '2.4000',
    '-0.8000',
    # The control has taken 200 steps, after which the hybrid had 4.
    '4.0000',
    '2.2000',
  ]
  assert control[7:] == ['+0.0000', '3.0000', '3.0000']


def test_curves_are_aligned_by_their_ends():
  records = [record('T5', 1, [9, 5, 3]), record('T5', 2, [6, 2])]
  found = quality_figure.median_curve(records, 'T5')
  np.testing.assert_allclose(found['loss'], [5.5, 2.5])
  np.testing.assert_allclose(found['low'], [5, 2])
  np.testing.assert_allclose(found['high'], [6, 3])


def test_the_controls_are_always_trained():
  options = quality.parse(['--steps', '1', '--models', 'hybrid'])
  assert options.models == ['hybrid', 't5', 'control', 'none']
  none = quality.network_of('none').make('toy')
  assert set(none.config.layer_mixing) == {'none'}
  control = quality.network_of('control').make('toy')
  assert control.config.layer_mixing == ('none', 'none', *2 * ('attention',))


@pytest.mark.slow
def test_tokens_are_the_shipped_corpus_by_default(tmp_path, monkeypatch):
  import gin

  monkeypatch.setenv('FNET_T5X_CACHE_DIR', str(tmp_path))
  options = quality.parse(
    [*SMALL, '--pieces', '300', '--train_rows', '8', '--models', 'none']
  )
  gin.clear_config()
  try:
    found = quality.tokens_of(options)
  finally:
    gin.clear_config()
  assert found.task == 'fnet_text_fixed_prefix_lm'
  assert found.arrays['train_inputs'].shape == (8, 8)
  assert found.arrays['validation_targets'].shape == (4, 6)
  # 100 sentinels, rounded up to a multiple of 128.
  assert found.vocab_size == 512


def test_too_little_text_is_named():
  options = quality.parse([*SMALL, '--rows', '4'])
  arrays = {name: x[:3] for name, x in corpus().arrays.items()}
  with pytest.raises(ValueError, match='3 rows to train on and 3'):
    quality.train(options, PreparedCorpus(32, 'task', arrays))


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([], 'either --minutes or --steps'),
    (['--steps', '1', '--minutes', '1'], 'either --minutes or --steps'),
    (['--minutes', '0'], '--minutes 0: must be greater than 0'),
    (['--steps', '1', '--models', 'hybrid,bert'], 'bert: choose from hybrid'),
    (['--steps', '1', '--seeds', 'x'], 'x'),
    (['--steps', '1', '--rows', '32', '--train_rows', '8'], '--train_rows'),
    (['--steps', '1', '--dtype', 'int8'], 'int8'),
    (['--steps', '1', '--json', '/no/such/folder/a.json'], '/no/such/folder'),
    (['--steps', '1', '--figure', '/no/such/folder/a.png'], '/no/such/folder'),
  ],
)
def test_bad_input_is_named(arguments, message, capsys):
  with pytest.raises(SystemExit) as error:
    quality.parse(arguments)
  assert error.value.code == 2
  assert message in capsys.readouterr().err


def test_settings_are_valid_json(tmp_path):
  """Neither a missing limit nor a path is a number or text of JSON."""
  options = quality.parse([*SMALL, '--json', str(tmp_path / 'a.json')])
  json.dumps(equal_training.settings_of(options), allow_nan=False)
