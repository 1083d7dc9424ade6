"""Checkpoints that T5X itself wrote in its older, public layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
from flax import traverse_util

from fnet_t5x.networks import t5
from fnet_t5x.runtime import models
from fnet_t5x.runtime import utils as runtime_utils
from fnet_t5x.runtime.checkpoints import RestoreCheckpointConfig

HYBRID = small_runs.make_model()
SIZES = {
  name: getattr(HYBRID.module.config, name)
  for name in t5.T5Config.__dataclass_fields__
}
BATCH = small_runs.packed_batch(seed=1)
SHAPES = {name: x.shape for name, x in BATCH.items()}
TYPES = {name: x.dtype for name, x in BATCH.items()}


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """T5X's model and state of its T5, and the path of the checkpoint."""
  t5x_models = pytest.importorskip('t5x.models')
  from t5x import adafactor, checkpoints, partitioning, utils
  from t5x.examples.t5 import network

  known = network.T5Config.__dataclass_fields__
  sizes = {k: v for k, v in SIZES.items() if k in known}
  model = t5x_models.EncoderDecoderModel(
    module=network.Transformer(network.T5Config(**sizes)),
    input_vocabulary=small_runs.VOCABULARY,
    output_vocabulary=small_runs.VOCABULARY,
    optimizer_def=adafactor.Adafactor(
      logical_factor_rules=adafactor.standard_logical_factor_rules()
    ),
    z_loss=0.0,
    loss_normalizing_factor='NUM_REAL_TARGET_TOKENS',
  )
  partitioner = partitioning.PjitPartitioner(num_partitions=1)
  with jax.numpy_rank_promotion('allow'):
    initializer = utils.TrainStateInitializer(
      optimizer_def=model.optimizer_def,
      init_fn=model.get_initial_variables,
      input_shapes=SHAPES,
      input_types=TYPES,
      partitioner=partitioner,
    )
    state = initializer.from_scratch(jax.random.PRNGKey(6))
    state = state.replace_step(jnp.asarray(500, jnp.int32))
    directory = str(tmp_path_factory.mktemp('t5'))
    checkpoints.Checkpointer(state, partitioner, directory).save(state)
  return model, jax.device_get(state), f'{directory}/checkpoint_500'


def restore(model, path, **config):
  initializer = runtime_utils.TrainStateInitializer(
    model.optimizer_def,
    model.get_initial_variables,
    SHAPES,
    small_runs.one_device(),
    TYPES,
  )
  return initializer.from_checkpoint(
    RestoreCheckpointConfig(path=path, mode='specific', **config),
    jax.random.PRNGKey(0),
  )


def loss(model, params):
  batch = {name: jnp.asarray(x) for name, x in BATCH.items()}
  with jax.numpy_rank_promotion('allow'):
    return float(jax.jit(model.eval_fn)(params, batch)[0])


def flat(tree):
  return traverse_util.flatten_dict(jax.device_get(tree), sep='/')


def test_our_t5_restores_whole_and_has_the_same_loss(written):
  theirs, state, path = written
  ours = models.EncoderDecoderModel(
    module=t5.Transformer(t5.T5Config(**SIZES)),
    input_vocabulary=small_runs.VOCABULARY,
    output_vocabulary=small_runs.VOCABULARY,
    optimizer_def=HYBRID.optimizer_def,
    loss_normalizing_factor='NUM_REAL_TARGET_TOKENS',
  )
  restored = restore(ours, path)
  got, want = flat(restored.state_dict()), flat(state.state_dict())
  assert got.keys() == want.keys()
  for name, value in want.items():
    np.testing.assert_array_equal(got[name], value, err_msg=name)
  np.testing.assert_allclose(
    loss(ours, restored.params), loss(theirs, state.params), rtol=1e-6
  )


def test_the_hybrid_takes_what_has_the_same_name(written, capsys):
  _, state, path = written
  restored = restore(HYBRID, path, assignment_map=(), fallback_to_scratch=True)
  got, want = flat(restored.state_dict()), flat(state.state_dict())
  taken = got.keys() & want.keys()
  for name in taken:
    np.testing.assert_array_equal(got[name], want[name], err_msg=name)
  assert {n for n in want if n.startswith('target/decoder/')} <= taken
  assert 'target/token_embedder/embedding' in taken
  assert 'encoder/layers_{0}/attention/query/kernel' in capsys.readouterr().out
