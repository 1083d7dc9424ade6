import json

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkout import GOLDEN_DIR
from flax import traverse_util
from flax.linen import partitioning as flax_partitioning
from jax.sharding import PartitionSpec

from fnet_t5x.runtime import adafactor, train_state

GOLDEN = json.loads((GOLDEN_DIR / 'optimizer.json').read_text())
# The paper's constants, and a learning rate for every step.
EPSILON1, EPSILON2, LEARNING_RATE = 1e-30, 1e-3, 0.1


def rms(x):
  return np.sqrt(np.mean(np.square(x)))


def reference(matrix, grads, factored, beta1=None, weight_decay=0.0):
  """Adafactor of one matrix in float64 with the paper's sums over V itself."""
  x = matrix.astype(np.float64)
  second = np.zeros_like(x)
  rows, columns = np.zeros(x.shape[0]), np.zeros(x.shape[1])
  momentum = np.zeros_like(x)
  for step, grad in enumerate(np.asarray(grads, np.float64), start=1):
    decay = 1 - step**-0.8
    squares = grad**2 + EPSILON1
    if factored:
      rows = decay * rows + (1 - decay) * squares.sum(1)
      columns = decay * columns + (1 - decay) * squares.sum(0)
      second = np.outer(rows, columns) / rows.sum()
    else:
      second = decay * second + (1 - decay) * squares
    update = grad / np.sqrt(second)
    update /= max(1.0, rms(update))
    update *= LEARNING_RATE * max(rms(x), EPSILON2)
    if beta1 is not None:
      momentum = beta1 * momentum + (1 - beta1) * update
      update = momentum
    x = x - weight_decay * x - update
  return x


def run(param, grads, axes=None, **arguments):
  """Five steps of our Adafactor on one parameter."""
  optimizer_def = adafactor.Adafactor(
    LEARNING_RATE,
    min_dim_size_to_factor=2,
    logical_factor_rules=adafactor.standard_logical_factor_rules(),
    **arguments,
  )
  if axes is not None:
    optimizer_def.set_param_axes({'w': PartitionSpec(*axes)})
  optimizer = optimizer_def.create({'w': jnp.asarray(param, jnp.float32)})
  step = jax.jit(lambda optimizer, grad: optimizer.apply_gradient({'w': grad}))
  for grad in grads:
    optimizer = step(optimizer, jnp.asarray(grad, jnp.float32))
  return optimizer


def draw(*shape, seed=3):
  rng = np.random.default_rng(seed)
  scales = 10.0 ** np.arange(-2, 3)
  return rng.standard_normal(shape), [
    scale * rng.standard_normal(shape) for scale in scales
  ]


def assert_close(got, want):
  assert rms(np.asarray(got) - want) < 2e-6 * rms(want)


@pytest.mark.parametrize('factored', [True, False])
@pytest.mark.parametrize(
  'arguments',
  [{}, {'beta1': 0.9}, {'beta1': 0.5, 'weight_decay': 0.03}],
)
def test_steps_equal_float64_numpy(factored, arguments):
  param, grads = draw(6, 10)
  want = reference(param, grads, factored, **arguments)
  ours = dict(arguments)
  if 'weight_decay' in ours:
    ours['weight_decay_rate'] = ours.pop('weight_decay')
  optimizer = run(param, grads, factored=factored, **ours)
  assert_close(optimizer.target['w'], want)
  assert int(optimizer.state.step) == 5


def test_attention_kernel_factors_as_its_matrix():
  param, grads = draw(6, 3, 4)
  want = reference(
    param.reshape(6, 12), [g.reshape(6, 12) for g in grads], factored=True
  )
  optimizer = run(param, grads, axes=('embed', 'heads', 'kv'))
  assert_close(optimizer.target['w'], want.reshape(6, 3, 4))
  state = optimizer.state.param_states['w']
  assert state.v_row.shape == (6,)
  assert state.v_col.shape == (3, 4)


def test_stacked_layers_do_not_see_each_other():
  param, grads = draw(3, 6, 10)
  param[1] *= 100.0
  want = np.stack(
    [
      reference(param[i], [g[i] for g in grads], factored=True)
      for i in range(3)
    ]
  )
  optimizer = run(param, grads, axes=('layers', 'embed', 'mlp'))
  for layer in range(3):
    assert_close(optimizer.target['w'][layer], want[layer])


def test_short_matrices_and_vectors_are_not_factored():
  shapes = {'a': (127, 256), 'b': (128, 256), 'c': (300,), 'd': ()}
  params = {name: jnp.ones(shape) for name, shape in shapes.items()}
  states = adafactor.Adafactor().init_state(params).param_states
  assert states['a'].v.shape == (127, 256)
  assert (states['b'].v_row.shape, states['b'].v_col.shape) == ((128,), (256,))
  assert states['b'].v.shape == (1,)
  assert states['c'].v.shape == (300,)
  assert states['d'].v.shape == ()
  assert all(state.m.shape == (1,) for state in states.values())


def test_rank_two_follows_the_heuristic_whatever_the_axes_say():
  param, _ = draw(10, 6)
  state = run(param, [], axes=('embed', 'mlp')).state.param_states['w']
  assert (state.v_row.shape, state.v_col.shape) == ((6,), (10,))


@pytest.mark.slow
@pytest.mark.parametrize('case', sorted(GOLDEN['adafactor']))
def test_equals_t5x(case):
  golden = GOLDEN['adafactor'][case]

  def nested(flat):
    return flax.core.freeze(traverse_util.unflatten_dict(flat, sep='/'))

  def arrays(flat):
    return nested({k: jnp.asarray(v, jnp.float32) for k, v in flat.items()})

  axes = {
    f'{name}_axes': flax_partitioning.AxisMetadata(names=tuple(names))
    for name, names in GOLDEN['axes'].items()
  }
  state = train_state.FlaxOptimTrainState.create(
    adafactor.Adafactor(
      logical_factor_rules=adafactor.standard_logical_factor_rules(),
      **golden['arguments'],
    ),
    {'params': arrays(GOLDEN['params']), 'params_axes': nested(axes)},
  )
  for step in GOLDEN['steps']:
    state = state.apply_gradient(
      arrays(step['grads']), learning_rate=step['learning_rate']
    )
  got = traverse_util.flatten_dict(state.state_dict(), sep='/')
  assert set(got) == set(golden['state_dict'])
  for name, want in golden['state_dict'].items():
    want = np.asarray(want)
    assert got[name].shape == want.shape, name
    np.testing.assert_allclose(got[name], want, rtol=2e-5, err_msg=name)


def test_parameter_scale_can_be_chosen_by_name():
  params = {'a': jnp.full((3,), 5.0), 'b': jnp.full((3,), 5.0)}
  scale = adafactor.HParamMap([('a', False), ('.*', True)])
  optimizer = adafactor.Adafactor(
    0.1, multiply_by_parameter_scale=scale
  ).create(params)
  got = optimizer.apply_gradient(jax.tree.map(jnp.ones_like, params)).target
  np.testing.assert_allclose(got['a'], 5.0 - 0.1, rtol=1e-6)
  np.testing.assert_allclose(got['b'], 5.0 - 0.5, rtol=1e-6)


def test_nan_updates_are_skipped_by_element():
  params = {'w': jnp.array([1.0, 2.0])}
  grads = {'w': jnp.array([jnp.nan, 1.0])}
  optimizer = adafactor.Adafactor(
    0.1, skip_nan_updates=True, clipping_threshold=None
  ).create(params)
  new = optimizer.apply_gradient(grads)
  assert new.target['w'][0] == 1.0
  assert new.target['w'][1] < 2.0
  np.testing.assert_allclose(new.state.param_states['w'].v, [0.0, 1.0])


def test_dtypes_of_parameters_and_momentum_are_kept():
  params = {'w': jnp.ones((4, 4), jnp.bfloat16)}
  optimizer = adafactor.Adafactor(
    0.1, beta1=0.9, dtype_momentum=jnp.bfloat16, min_dim_size_to_factor=2
  ).create(params)
  new = optimizer.apply_gradient({'w': jnp.ones((4, 4), jnp.bfloat16)})
  assert new.target['w'].dtype == jnp.bfloat16
  assert new.state.param_states['w'].m.dtype == jnp.bfloat16
  assert new.state.param_states['w'].v_row.dtype == jnp.float32


def test_equal_arguments_make_equal_definitions():
  assert adafactor.Adafactor(0.1) == adafactor.Adafactor(0.1)
  assert hash(adafactor.Adafactor(0.1)) == hash(adafactor.Adafactor(0.1))
  assert adafactor.Adafactor(0.1) != adafactor.Adafactor(0.2)


def test_full_moments_are_laid_out_like_parameters_factored_ones_are_not():
  axes = {'a': PartitionSpec('embed', 'mlp'), 'b': PartitionSpec('embed')}
  params = {'a': jnp.ones((4, 4)), 'b': jnp.ones((4,))}
  optimizer_def = adafactor.Adafactor(0.1, beta1=0.9, min_dim_size_to_factor=2)
  got = optimizer_def.derive_logical_axes(optimizer_def.create(params), axes)
  states = got.state.param_states
  assert got.target == axes
  assert got.state.step is None
  assert (states['a'].v, states['a'].m) == (None, axes['a'])
  assert (states['a'].v_row, states['a'].v_col) == (None, None)
  assert (states['b'].v, states['b'].m) == (axes['b'], axes['b'])


def bad_rank():
  rule = adafactor.HParamMap([('.*', (adafactor.FactorDim.ROW,))])
  adafactor.Adafactor(factor_map=rule).create({'w': jnp.ones((2, 2))})


def axes_of(*names, rules=None):
  adafactor.Adafactor(
    logical_factor_rules=rules or adafactor.standard_logical_factor_rules()
  ).set_param_axes({'layer': {'w': PartitionSpec(*names)}})


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (
      lambda: adafactor.Adafactor().create({'w': jnp.ones((2, 2, 2))}),
      r"'w' of shape \(2, 2, 2\) has rank 3",
    ),
    (bad_rank, r"for parameter 'w' has 1 dimensions"),
    (
      lambda: axes_of('embed', 'color'),
      r"'layer/w' has the axis 'color', which .* does not know",
    ),
    (
      lambda: axes_of('embed', 'mlp', 'length'),
      r"'layer/w' .* axis 'length'",
    ),
    (
      lambda: axes_of('embed', rules={'embed': 'diagonal'}),
      r"unknown Adafactor factor rule 'diagonal'",
    ),
    (
      lambda: adafactor.Adafactor(
        factored=False, factor_map=adafactor.HParamMap([])
      ),
      'factor_map but factored=False',
    ),
    (
      lambda: (
        adafactor.Adafactor()
        .create({'w': jnp.ones(2)})
        .apply_gradient({'w': jnp.ones(2)})
      ),
      'no learning rate',
    ),
  ],
)
def test_bad_input_is_named(make, message):
  with pytest.raises(ValueError, match=message):
    make()
