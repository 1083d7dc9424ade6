import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from jax.sharding import PartitionSpec

from fnet_t5x.runtime import adafactor, optimizers, utils

PARAMS = flax.core.freeze(
  {
    'encoder': {'kernel': jnp.linspace(-1.0, 2.0, 12).reshape(3, 4)},
    'decoder': {'kernel': jnp.linspace(0.5, 1.5, 6).reshape(2, 3)},
  }
)
AXES = flax.core.freeze(
  {
    'encoder': {'kernel': PartitionSpec('embed', 'mlp')},
    'decoder': {'kernel': PartitionSpec('heads', 'embed')},
  }
)


def gradients(step):
  return jax.tree.map(lambda x: jnp.cos(3.0 * x + step), PARAMS)


def adam_reference(learning_rates, weight_decay=0.0):
  """Adam (Kingma & Ba 2015, algorithm 1) in float64, decay as in AdamW."""
  x = {k: np.asarray(v['kernel'], np.float64) for k, v in PARAMS.items()}
  m = {k: np.zeros_like(v) for k, v in x.items()}
  v = {k: np.zeros_like(v) for k, v in x.items()}
  for step, alpha in enumerate(learning_rates, start=1):
    for k in x:
      grad = np.asarray(gradients(step)[k]['kernel'], np.float64)
      m[k] = 0.9 * m[k] + 0.1 * grad
      v[k] = 0.999 * v[k] + 0.001 * grad**2
      unbiased = m[k] / (1 - 0.9**step)
      scale = np.sqrt(v[k] / (1 - 0.999**step)) + 1e-8
      x[k] = x[k] - alpha * (unbiased / scale + weight_decay * x[k])
  return x


def steps(optimizer_def, count=4):
  optimizer = optimizer_def.create(PARAMS)
  for step in range(1, count + 1):
    optimizer = optimizer.apply_gradient(gradients(step), learning_rate=7.0)
  return optimizer


@pytest.mark.parametrize('weight_decay', [None, 0.1])
def test_adam_equals_float64_numpy(weight_decay):
  if weight_decay is None:
    optimizer = steps(optimizers.adam(0.01))
  else:
    optimizer = steps(optimizers.adamw(0.01, weight_decay=weight_decay))
  want = adam_reference([0.01] * 4, weight_decay or 0.0)
  for name, value in want.items():
    got = optimizer.target[name]['kernel']
    np.testing.assert_allclose(got, value, rtol=1e-5)
  assert int(optimizer.state.step) == 4


def test_an_optax_optimizer_takes_our_schedules():
  schedule = utils.create_learning_rate_scheduler(
    'constant * linear_warmup', base_learning_rate=0.02, warmup_steps=2
  )
  optimizer = steps(optimizers.adam(schedule))
  want = adam_reference([1e-8, 0.01, 0.02, 0.02])
  for name, value in want.items():
    np.testing.assert_allclose(
      optimizer.target[name]['kernel'], value, rtol=1e-5
    )


@pytest.mark.parametrize(
  'optimizer_def',
  [
    optimizers.sgd(0.1, momentum=0.9),
    optimizers.adamw(0.1),
    optimizers.lion(0.1),
    optimizers.chain([optax.clip_by_global_norm(1.0), optax.adam(0.1)]),
    adafactor.Adafactor(0.1, min_dim_size_to_factor=2),
  ],
  ids=['sgd', 'adamw', 'lion', 'chain', 'adafactor'],
)
def test_state_dict_restores_and_goes_on_equally(optimizer_def):
  optimizer = steps(optimizer_def, 3)
  state_dict = optimizer.state_dict()
  assert set(state_dict) == {'target', 'state'}
  assert set(state_dict['state']) == {'step', 'param_states'}
  restored = optimizer_def.create(PARAMS).restore_state(state_dict)
  assert jax.tree.structure(restored) == jax.tree.structure(optimizer)
  ours, theirs = (o.apply_gradient(gradients(9)) for o in (restored, optimizer))
  for got, want in zip(
    jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True
  ):
    np.testing.assert_array_equal(got, want)


def test_state_dict_has_no_empty_dicts():
  flat = traverse_util.flatten_dict(
    optimizers.adamw(0.1).create(PARAMS).state_dict(),
    keep_empty_nodes=True,
    sep='/',
  )
  assert traverse_util.empty_node not in flat.values()
  assert 'state/param_states/0/mu/encoder/kernel' in flat


def test_state_of_another_optimizer_is_refused():
  state_dict = optimizers.sgd(0.1).create(PARAMS).state_dict()
  with pytest.raises(ValueError, match=r"has no 'param_states/0/count'"):
    optimizers.adam(0.1).create(PARAMS).restore_state(state_dict)


def test_moments_are_laid_out_like_their_parameters():
  optimizer_def = optimizers.adamw(0.1)
  got = optimizer_def.derive_logical_axes(optimizer_def.create(PARAMS), AXES)
  adam_state = got.state.param_states[0]
  assert got.target == adam_state.mu == adam_state.nu == AXES
  assert adam_state.count is None
  assert got.state.step is None


def test_moments_of_another_shape_are_replicated():
  optimizer_def = optimizers.OptaxWrapper(
    optax.adafactor(0.1, min_dim_size_to_factor=2)
  )
  optimizer = optimizer_def.create(PARAMS)
  assert any(leaf.shape == (3,) for leaf in jax.tree.leaves(optimizer.state))
  got = optimizer_def.derive_logical_axes(optimizer, AXES)
  assert jax.tree.leaves(got.state) == []


def test_masked_moments_are_laid_out_too():
  optimizer_def = optimizers.OptaxWrapper(
    optax.multi_transform(
      {'train': optax.adam(0.1), 'freeze': optax.set_to_zero()},
      flax.core.freeze({'encoder': 'freeze', 'decoder': 'train'}),
    )
  )
  optimizer = optimizer_def.create(PARAMS)
  got = optimizer_def.derive_logical_axes(optimizer, AXES)
  specs = [
    leaf
    for leaf in jax.tree.leaves(got.state)
    if isinstance(leaf, PartitionSpec)
  ]
  assert specs == [PartitionSpec('heads', 'embed')] * 2
  new = optimizer.apply_gradient(gradients(1)).target
  np.testing.assert_array_equal(
    new['encoder']['kernel'], PARAMS['encoder']['kernel']
  )
  assert not np.allclose(new['decoder']['kernel'], PARAMS['decoder']['kernel'])


def selecting(*prefixes):
  return traverse_util.ModelParamTraversal(
    lambda path, _: path.startswith(prefixes)
  )


@pytest.mark.filterwarnings('ignore:.*Traversal.*:DeprecationWarning')
def test_multi_optimizer_is_each_optimizer_on_its_own_part():
  part = adafactor.Adafactor(0.1, min_dim_size_to_factor=2)
  both = optimizers.MultiOptimizer([(selecting('/decoder'), part)])
  got = steps(both)
  alone = part.create(flax.core.freeze({'decoder': PARAMS['decoder']}))
  for step in range(1, 5):
    grads = flax.core.freeze({'decoder': gradients(step)['decoder']})
    alone = alone.apply_gradient(grads, learning_rate=7.0)
  np.testing.assert_array_equal(
    got.target['decoder']['kernel'], alone.target['decoder']['kernel']
  )
  np.testing.assert_array_equal(
    got.target['encoder']['kernel'], PARAMS['encoder']['kernel']
  )
  assert got.state.param_states['encoder']['kernel'] is None
  axes = both.derive_logical_axes(both.create(PARAMS), AXES)
  assert axes.target == AXES


@pytest.mark.filterwarnings('ignore:.*Traversal.*:DeprecationWarning')
def test_multi_optimizer_refuses_a_parameter_selected_twice():
  parts = [
    (selecting('/enc'), adafactor.Adafactor()),
    (selecting('/enc', '/dec'), adafactor.Adafactor()),
  ]
  with pytest.raises(ValueError, match="select the parameter 'encoder/kernel'"):
    optimizers.MultiOptimizer(parts).create(PARAMS)


@pytest.mark.filterwarnings('ignore:.*Traversal.*:DeprecationWarning')
def test_multi_optimizer_refuses_state_not_kept_by_parameter():
  parts = [(selecting('/'), optimizers.adam(0.1))]
  with pytest.raises(ValueError, match='multi_transform'):
    optimizers.MultiOptimizer(parts).create(PARAMS)
