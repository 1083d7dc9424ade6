"""Training for a time: its clock, its schedule, its losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.benchmarks.accelerator import networks, timed_training

pytestmark = pytest.mark.slow

SIZES = timed_training.Sizes('toy', 4, 8, 2)


def tokens(rows, seed):
  """Targets that are the inputs' first tokens: there is something to learn."""
  random = np.random.default_rng(seed)
  inputs = random.integers(3, 40, (rows, 16))
  targets = inputs[:, :6].copy()
  targets[0, 3:] = 0
  return {'inputs': jnp.asarray(inputs), 'targets': jnp.asarray(targets)}


@pytest.fixture(scope='module')
def trained():
  data = (tokens(16, 0), tokens(8, 1))
  module = networks.make(
    'control', 'toy', dtype='float32', vocab_size=40, max_encoder_length=16
  )
  return timed_training.make_programs(module, SIZES, data), data


def test_the_rate_follows_the_clock():
  rates = [timed_training.learning_rate(f) for f in (0, 0.05, 0.1, 0.55, 1, 2)]
  expected = [0.001, 0.0055, 0.01, 0.0055, 0.001, 0.001]
  np.testing.assert_allclose(rates, expected)


def test_standard_error_is_that_of_many_samples():
  """The spread of the loss over validation sets drawn again and again."""
  random = np.random.default_rng(0)
  weights = random.integers(1, 20, (2000, 100)).astype(np.float64)
  nats = weights * random.normal(3, 1, (2000, 100))
  found = [
    timed_training.loss_and_error(*rows)
    for rows in zip(nats, weights, strict=True)
  ]
  losses, errors = np.array(found).T
  np.testing.assert_allclose(losses.mean(), 3, atol=0.01)
  np.testing.assert_allclose(errors.mean(), losses.std(), rtol=0.05)


def test_losses_are_those_of_the_logits(trained):
  programs, (_, validation) = trained
  params = programs.start(0).target
  nats, weights, correct = programs.evaluate(params, validation)
  module = networks.make(
    'control', 'toy', dtype='float32', vocab_size=40, max_encoder_length=16
  )
  targets = np.asarray(validation['targets'])
  logits = module.apply(
    {'params': params},
    validation['inputs'],
    np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    targets,
    enable_dropout=False,
  )
  logits = np.float64(logits)
  scores = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  rows, columns = np.indices(targets.shape)
  expected = -(scores[rows, columns, targets] * (targets > 0)).sum(1)
  np.testing.assert_allclose(nats, expected, rtol=1e-5)
  np.testing.assert_array_equal(weights, (targets > 0).sum(1))
  right = (logits.argmax(-1) == targets) & (targets > 0)
  np.testing.assert_array_equal(correct, right.sum(1))


def test_a_run_ends_with_its_time_and_learns(trained):
  programs, (train, _) = trained
  # What it has seen it knows soon.
  data = (train, {side: rows[:8] for side, rows in train.items()})
  points = list(timed_training.train_for(programs, SIZES, data, 0, seconds=4.0))
  at_time = [point for point in points if point['at'] == 'time']
  shares = [point['share'] for point in at_time]
  assert shares == sorted(shares)
  assert shares[-1] >= 1.0
  for share, wanted in zip(
    shares[::-1], timed_training.FRACTIONS[::-1], strict=False
  ):
    assert share >= wanted - 0.25
  steps = [point['steps'] for point in points if point['at'] == 'steps']
  assert steps == [2 * 2**n for n in range(len(steps))]
  assert at_time[-1]['loss'] < points[0]['loss']
  assert all(point['standard_error'] > 0 for point in points)


def test_a_run_of_steps_ends_with_its_schedule(trained):
  programs, data = trained
  points = list(
    timed_training.train_for(
      programs, SIZES, data, 0, steps=5, fractions=(0.4, 1.0)
    )
  )
  found = [(point['at'], point['steps'], point['share']) for point in points]
  assert found == [
    ('steps', 2, 0.4),
    ('time', 2, 0.4),
    ('steps', 4, 0.8),
    ('time', 5, 1.0),
  ]
  seconds = [point['seconds'] for point in points]
  assert seconds == sorted(seconds) and seconds[0] > 0
  # The same seed sees the same rates, and so learns the same.
  again = list(
    timed_training.train_for(programs, SIZES, data, 0, steps=5, fractions=(1,))
  )
  assert again[-1]['loss'] == points[-1]['loss']


def test_each_pass_has_each_row_once():
  order = timed_training._order(10, 4, seed=0)
  passes = [np.concatenate([next(order), next(order)]) for _ in range(2)]
  for rows in passes:
    assert len(set(rows.tolist())) == 8
  assert passes[0].tolist() != passes[1].tolist()
  with pytest.raises(ValueError, match='3 examples'):
    next(timed_training._order(3, 4, seed=0))


def test_seeds_differ(trained):
  programs, _ = trained
  first, second = (
    jax.tree.leaves(programs.start(seed).target)[0] for seed in (0, 1)
  )
  assert not np.array_equal(first, second)
