import json
import math

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
from checkout import GOLDEN_DIR
from flax.linen import partitioning as flax_partitioning
from jax.sharding import PartitionSpec

from fnet_t5x.runtime import optimizers, partitioning, train_state, utils

GOLDEN = json.loads((GOLDEN_DIR / 'optimizer.json').read_text())
STEPS = [0, 1, 9, 10, 11, 25, 399, 400, 401, 5000]


def values(**arguments):
  schedule = jax.jit(utils.create_learning_rate_scheduler(**arguments))
  return [float(schedule(jnp.asarray(step))) for step in STEPS]


@pytest.mark.parametrize(
  ('arguments', 'closed_form'),
  [
    ({'factors': 'constant'}, lambda s: 0.5),
    (
      {'factors': 'constant * linear_warmup', 'warmup_steps': 10},
      lambda s: 0.5 * min(1, s / 10),
    ),
    (
      {'factors': 'rsqrt_decay', 'warmup_steps': 400},
      lambda s: 1 / math.sqrt(max(s, 400)),
    ),
    (
      {'factors': 'rsqrt_normalized_decay', 'warmup_steps': 400},
      lambda s: math.sqrt(400 / max(s, 400)),
    ),
    (
      {'factors': 'linear_decay', 'warmup_steps': 10, 'decay_factor': 1e-3},
      lambda s: 0.5 * min(s / 10, 1 + 1e-3 * (10 - s)),
    ),
    (
      {'factors': 'decay_every', 'steps_per_decay': 200},
      lambda s: 0.5 ** (s // 200),
    ),
    (
      {'factors': 'cosine_decay', 'warmup_steps': 0, 'steps_per_cycle': 401},
      lambda s: (1 + math.cos(math.pi * (s / 401 % 1))) / 2,
    ),
    (
      {'factors': 'rsqrt_decay', 'warmup_steps': 4, 'step_offset': 10},
      lambda s: 1 / math.sqrt(max(s - 10, 4)),
    ),
  ],
)
def test_factors_equal_their_formulas(arguments, closed_form):
  want = [max(closed_form(step), 1e-8) for step in STEPS]
  np.testing.assert_allclose(values(**arguments), want, rtol=1e-6, atol=1e-7)


def test_factors_multiply():
  np.testing.assert_allclose(
    values(base_learning_rate=2.0, warmup_steps=10),
    [
      max(2.0 * min(1, step / 10) / math.sqrt(max(step, 10)), 1e-8)
      for step in STEPS
    ],
    rtol=1e-6,
  )


@pytest.mark.parametrize('case', range(len(GOLDEN['schedules'])))
def test_equals_t5x(case):
  golden = GOLDEN['schedules'][case]
  schedule = utils.create_learning_rate_scheduler(**golden['arguments'])
  got = [schedule(jnp.asarray(step)) for step in golden['steps']]
  assert all(x.dtype == jnp.float32 and x.shape == () for x in got)
  np.testing.assert_allclose(got, golden['learning_rates'], rtol=1e-6)


def test_unknown_factor_is_named():
  with pytest.raises(ValueError, match=r"'warmup' in 'constant \* warmup'"):
    utils.create_learning_rate_scheduler('constant * warmup')


def test_division_by_zero_warmup_is_named():
  with pytest.raises(ValueError, match=r"warmup_steps is 0.*'linear_warmup'"):
    utils.create_learning_rate_scheduler(
      'constant * linear_warmup', warmup_steps=0
    )


class Network(nn.Module):
  """A kernel with axes, and a bias without."""

  @nn.compact
  def __call__(self, x):
    kernel = flax_partitioning.param_with_axes(
      'kernel', nn.initializers.ones, (16, 8), axes=('embed', 'mlp')
    )
    return x @ kernel + self.param('bias', nn.initializers.zeros, (8,))[None]


def network_variables():
  layer = Network().init(jax.random.key(0), jnp.ones((1, 16)))
  return flax.core.freeze(
    {name: {'layer': tree} for name, tree in layer.items()}
  )


def test_overridden_axes_decide_the_sharding():
  variables = network_variables()
  overridden = utils.override_params_axes_names(
    variables,
    [
      ('kernel', ('vocab',)),  # Not the whole name.
      ('.*/kernel', ('vocab', 'embed')),
      ('layer/kernel', ('mlp',)),  # Matched before.
      ('layer/bias', ('mlp',)),
    ],
  )
  state = train_state.FlaxOptimTrainState.create(
    optimizers.adamw(0.1), overridden
  )
  axes = partitioning.PjitPartitioner(num_partitions=2).get_mesh_axes(state)
  assert dict(axes.params['layer']) == {
    'kernel': PartitionSpec('model', None),
    'bias': PartitionSpec('model'),
  }
  assert overridden['params'] == variables['params']
  assert utils.override_params_axes_names(variables) == variables
  names = variables['params_axes']['layer']['kernel_axes'].names
  assert tuple(names) == ('embed', 'mlp')


def test_impossible_overrides_are_refused():
  variables = network_variables()
  with pytest.raises(ValueError, match=r"layer/kernel has .* \(16, 8\).*'mlp'"):
    utils.override_params_axes_names(variables, [('layer/kernel', ['mlp'])])
  with pytest.raises(ValueError, match="no 'params_axes' to override"):
    utils.override_params_axes_names({'params': variables['params']})


def test_zeros_like_a_dataset():
  dataset = tf.data.Dataset.from_tensors(
    {'tokens': np.ones((2, 5), np.int32), 'weights': np.ones(2, np.float32)}
  )
  for size, batch in (
    (2, utils.get_zeros_batch_like_dataset(dataset)),
    (6, utils.get_zeros_batch_like_dataset(dataset, batch_size=6)),
  ):
    assert {k: (x.shape, x.dtype) for k, x in batch.items()} == {
      'tokens': ((size, 5), np.int32),
      'weights': ((size,), np.float32),
    }
    assert not any(np.any(x) for x in batch.values())
