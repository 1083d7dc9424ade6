"""Golden values of T5X's Adafactor and schedules.

T5X at commit cc342d4, in an environment where it is importable, from here:

  JAX_PLATFORMS=cpu python optimizer.py > optimizer.json

The file includes the inputs, so the tests need nothing else.
"""

import json

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.linen import partitioning as flax_partitioning
from t5x import adafactor, train_state, utils

STEPS = 3
SHAPES = {
  'token_embedder/embedding': (('vocab', 'embed'), (12, 6)),
  'attention/query/kernel': (('embed', 'heads', 'kv'), (6, 2, 4)),
  'encoder/mlp/wi/kernel': (('layers', 'embed', 'mlp'), (2, 6, 10)),
  'encoder/scale': (('embed',), (6,)),
  'relpos_bias/rel_embedding': (('heads', 'relpos_buckets'), (2, 5)),
}
FACTORED = {'min_dim_size_to_factor': 4}
ADAFACTOR_CASES = {
  'factored': FACTORED,
  'unfactored': {'factored': False},
  'momentum_and_decay': {
    **FACTORED,
    'beta1': 0.9,
    'weight_decay_rate': 0.01,
    'step_offset': -3,
    'decay_rate': 0.6,
  },
  'clipped': {
    **FACTORED,
    'clipping_threshold': 0.5,
    'global_norm_clip_threshold': 1.5,
    'max_parameter_scale': 0.2,
    'weight_decay_rate_lr_exponent': 2.0,
  },
  'absolute_steps': {
    **FACTORED,
    'multiply_by_parameter_scale': False,
    'clipping_threshold': None,
  },
}
SCHEDULE_CASES = [
  {},
  {'factors': 'constant', 'base_learning_rate': 0.001},
  {'factors': 'constant * rsqrt_decay', 'base_learning_rate': 1.0},
  {
    'factors': 'linear_decay',
    'base_learning_rate': 0.02,
    'warmup_steps': 100,
    'decay_factor': 1e-3,
  },
  {'factors': 'constant * linear_warmup * rsqrt_normalized_decay'},
  {
    'factors': 'constant*decay_every',
    'decay_factor': 0.5,
    'steps_per_decay': 300,
  },
  {
    'factors': 'constant * linear_warmup * cosine_decay',
    'warmup_steps': 50,
    'steps_per_cycle': 700,
    'step_offset': 20,
    'min_learning_rate': 1e-3,
  },
]
SCHEDULE_STEPS = [0, 1, 7, 20, 99, 100, 101, 299, 300, 999, 1000, 1001, 25000]


def nested(flat):
  return flax.core.freeze(traverse_util.unflatten_dict(flat, sep='/'))


def flat_lists(tree):
  flat = traverse_util.flatten_dict(flax.core.unfreeze(tree), sep='/')
  # Nine digits hold a float32 exactly.
  return {
    name: np.vectorize(lambda v: float(f'{v:.9g}'))(x).tolist()
    for name, x in flat.items()
  }


def draw(rng, scale):
  return {
    name: (scale * rng.standard_normal(shape)).astype(np.float32)
    for name, (_, shape) in SHAPES.items()
  }


def record_adafactor(arguments, params, steps):
  axes = {
    f'{name}_axes': flax_partitioning.AxisMetadata(names=names)
    for name, (names, _) in SHAPES.items()
  }
  state = train_state.FlaxOptimTrainState.create(
    adafactor.Adafactor(
      logical_factor_rules=adafactor.standard_logical_factor_rules(),
      **arguments,
    ),
    {'params': nested(params), 'params_axes': nested(axes)},
  )
  for grad, learning_rate in steps:
    state = state.apply_gradient(
      nested(jax.tree.map(jnp.asarray, grad)), learning_rate=learning_rate
    )
  return {
    'arguments': arguments,
    'state_dict': flat_lists(state.state_dict()),
  }


def record_schedule(arguments):
  schedule = utils.create_learning_rate_scheduler(**arguments)
  return {
    'arguments': arguments,
    'steps': SCHEDULE_STEPS,
    'learning_rates': [
      float(schedule(jnp.asarray(step))) for step in SCHEDULE_STEPS
    ],
  }


def main():
  rng = np.random.default_rng(17)
  params = draw(rng, 0.3)
  steps = [(draw(rng, 0.1 * 4.0**i), 0.1 / (i + 1)) for i in range(STEPS)]
  golden = {
    'made_by': 'T5X cc342d4, tests/golden/optimizer.py',
    'axes': {name: axes for name, (axes, _) in SHAPES.items()},
    'params': flat_lists(nested(params)),
    'steps': [
      {'grads': flat_lists(nested(grads)), 'learning_rate': learning_rate}
      for grads, learning_rate in steps
    ],
    'adafactor': {
      name: record_adafactor(arguments, params, steps)
      for name, arguments in ADAFACTOR_CASES.items()
    },
    'schedules': [record_schedule(v) for v in SCHEDULE_CASES],
  }
  print(json.dumps(golden, separators=(',', ':')))


if __name__ == '__main__':
  main()
