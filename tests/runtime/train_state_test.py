import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen.partitioning import AxisMetadata
from jax.sharding import PartitionSpec

from fnet_t5x.runtime import adafactor, optimizers, train_state

VARIABLES = flax.core.freeze(
  {
    'params': {'dense': {'kernel': jnp.ones((4, 6)), 'bias': jnp.ones((6,))}},
    'params_axes': {
      'dense': {
        'kernel_axes': AxisMetadata(names=('embed', 'mlp')),
        'bias_axes': AxisMetadata(names=('mlp',)),
      }
    },
    'statistics': {'mean': jnp.full((6,), 2.0)},
    'statistics_axes': {'mean_axes': AxisMetadata(names=('mlp',))},
  }
)
SPECS = flax.core.freeze(
  {
    'dense': {
      'kernel': PartitionSpec('embed', 'mlp'),
      'bias': PartitionSpec('mlp'),
    }
  }
)


def make_adafactor():
  return adafactor.Adafactor(
    0.1,
    min_dim_size_to_factor=2,
    logical_factor_rules=adafactor.standard_logical_factor_rules(),
  )


def make_state():
  return train_state.FlaxOptimTrainState.create(make_adafactor(), VARIABLES)


def without(*names):
  return {k: v for k, v in VARIABLES.items() if k not in names}


def test_both_states_follow_the_protocol():
  assert isinstance(make_state(), train_state.TrainState)
  inference = train_state.InferenceState.create(VARIABLES)
  with pytest.raises(NotImplementedError):
    _ = inference.param_states
  with pytest.raises(NotImplementedError):
    inference.apply_gradient(None, learning_rate=0.1)


def test_checkpoint_layout():
  state_dict = make_state().state_dict()
  shapes = jax.tree.map(jnp.shape, state_dict)
  assert shapes == {
    'target': {'dense': {'kernel': (4, 6), 'bias': (6,)}},
    'state': {
      'step': (),
      'param_states': {
        'dense': {
          'kernel': {'v_row': (4,), 'v_col': (6,), 'v': (1,), 'm': (1,)},
          'bias': {'v_row': (1,), 'v_col': (1,), 'v': (6,), 'm': (1,)},
        }
      },
    },
    'flax_mutables': {'statistics': {'mean': (6,)}},
  }
  assert state_dict['state']['step'].dtype == jnp.int32


def test_a_step_moves_parameters_step_and_mutables():
  state = make_state()
  mutables = {'statistics': {'mean': jnp.zeros((6,))}}
  new = state.apply_gradient(
    jax.tree.map(jnp.ones_like, state.params),
    learning_rate=0.5,
    flax_mutables=mutables,
  )
  assert (int(state.step), int(new.step)) == (0, 1)
  # Ones, of RMS 1, in both: one step subtracts exactly the learning rate.
  np.testing.assert_allclose(new.params['dense']['kernel'], 0.5, rtol=1e-6)
  np.testing.assert_allclose(
    new.param_states['dense']['bias'].v, 1.0, rtol=1e-6
  )
  assert new.flax_mutables is mutables


@pytest.mark.parametrize('kind', ['train', 'inference'])
def test_restores_what_a_train_state_wrote(kind):
  written = make_state().apply_gradient(
    jax.tree.map(jnp.ones_like, VARIABLES['params']), learning_rate=0.5
  )
  empty = make_state()
  if kind == 'inference':
    empty = train_state.InferenceState.create(VARIABLES)
  restored = empty.restore_state(written.state_dict())
  assert int(restored.step) == 1
  assert isinstance(restored.params, flax.core.FrozenDict)
  jax.tree.map(np.testing.assert_array_equal, restored.params, written.params)
  if kind == 'train':
    assert jax.tree.structure(restored.param_states) == jax.tree.structure(
      written.param_states
    )


@pytest.mark.parametrize('kind', ['train', 'inference'])
def test_replacing_leaves_the_rest(kind):
  state = make_state()
  if kind == 'inference':
    state = train_state.InferenceState.create(VARIABLES)
  params = jax.tree.map(jnp.zeros_like, state.params)
  new = state.replace_params(params).replace_step(jnp.asarray(7))
  new = new.replace_flax_mutables(train_state.EMPTY_DICT)
  assert new.params is params
  assert int(new.step) == 7
  assert 'flax_mutables' not in new.state_dict()
  assert int(state.step) == 0


def test_logical_axes():
  for state in (make_state(), train_state.InferenceState.create(VARIABLES)):
    axes = state.as_logical_axes()
    assert axes.params == SPECS
    assert axes.step is None
    assert axes.flax_mutables == flax.core.freeze(
      {'statistics': {'mean': PartitionSpec('mlp')}}
    )
  assert make_state().as_logical_axes().param_states['dense']['bias'].v == (
    PartitionSpec('mlp')
  )


def test_models_without_axes_work_with_optimizers_that_need_none():
  variables = without('params_axes', 'statistics_axes')
  state = train_state.FlaxOptimTrainState.create(optimizers.sgd(0.1), variables)
  assert state.params_axes is None


@pytest.mark.parametrize(
  ('variables', 'message'),
  [
    (without('params_axes'), 'the model is not emitting them'),
    (
      without('params_axes')
      | {'params_axes': {'dense': {'bias_axes': AxisMetadata(names=('mlp',))}}},
      "Missing axis names for parameters: {'dense/kernel'}",
    ),
  ],
)
def test_missing_axes_are_named(variables, message):
  with pytest.raises(ValueError, match=message):
    train_state.FlaxOptimTrainState.create(make_adafactor(), variables)


def test_an_optimizer_without_axes_cannot_be_partitioned():
  class Plain(optimizers.OptimizerDef):
    def init_state(self, params):
      return optimizers.OptimizerState(jnp.zeros((), jnp.int32), params)

  state = train_state.FlaxOptimTrainState.create(Plain(None), VARIABLES)
  with pytest.raises(ValueError, match='Plain has no derive_logical_axes'):
    state.as_logical_axes()
