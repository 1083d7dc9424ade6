"""Checkpoints: atomic, and rejected by another architecture."""

import contextlib
import dataclasses
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
from etils import epath
from flax import traverse_util

from fnet_t5x.convert import checkpoint_leaves
from fnet_t5x.runtime import (
  checkpoints,
  optimizers,
  partitioning,
)
from fnet_t5x.runtime.checkpoints import (
  RestoreCheckpointConfig,
  SaveCheckpointConfig,
)


def save(directory, *states, dtype='float32', keep=None):
  manager = checkpoints.CheckpointManager(str(directory), keep, create=True)
  with contextlib.closing(manager):
    for state in states:
      manager.save(state, dtype)


def flat(state):
  return traverse_util.flatten_dict(jax.device_get(state.state_dict()), sep='/')


def assert_equal(actual, expected):
  assert actual.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(actual[name], value, err_msg=name)


@pytest.fixture(scope='module')
def initializer():
  return small_runs.make_initializer(small_runs.make_model())


@pytest.fixture(scope='module')
def state(initializer):
  state = initializer.from_scratch(jax.random.PRNGKey(1))
  return state.replace_step(jnp.asarray(7, jnp.int32))


@pytest.fixture(scope='module')
def saved(state, tmp_path_factory):
  directory = tmp_path_factory.mktemp('saved')
  save(directory, state)
  return directory


@pytest.mark.slow
@pytest.mark.parametrize('num_partitions', [1, 2, 8])
def test_checkpoint_restores_on_any_mesh(saved, state, num_partitions):
  partitioner = partitioning.PjitPartitioner(num_partitions)
  initializer = small_runs.make_initializer(
    small_runs.make_model(), partitioner
  )
  restored = initializer.from_checkpoint(
    RestoreCheckpointConfig(path=str(saved))
  )
  assert_equal(flat(restored), flat(state))
  expected = partitioner.get_shardings(initializer.train_state_axes.params)
  for array, sharding in zip(
    jax.tree.leaves(restored.params), jax.tree.leaves(expected), strict=True
  ):
    assert array.sharding.is_equivalent_to(sharding, array.ndim)


def test_inference_takes_parameters_alone(saved, state):
  model = small_runs.make_model()
  model.optimizer_def = None
  restored = small_runs.make_initializer(model).from_checkpoint(
    RestoreCheckpointConfig(path=f'{saved}/checkpoint_7', mode='specific')
  )
  assert int(restored.step) == 7
  expected = {k: v for k, v in flat(state).items() if k.startswith('target/')}
  assert_equal(
    {k: v for k, v in flat(restored).items() if k != 'state/step'}, expected
  )


def test_donated_state_is_saved_as_it_was(tmp_path):
  """Training continues while Orbax writes: it must not overwrite its source."""
  params = {
    f'x{i}': jax.random.normal(jax.random.PRNGKey(i), (512, 1024))
    for i in range(16)
  }
  expected = {name: np.array(x, copy=True) for name, x in params.items()}

  class State:
    def __init__(self, step, params):
      self.step, self.params = step, params

    def state_dict(self):
      return {'target': self.params, 'state': {'step': self.step}}

    def restore_state(self, state_dict):
      return State(state_dict['state']['step'], state_dict['target'])

  step = jax.jit(
    lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0
  )
  manager = checkpoints.CheckpointManager(str(tmp_path), create=True)
  with contextlib.closing(manager):
    state = State(jnp.asarray(1, jnp.int32), params)
    shapes = jax.eval_shape(state.state_dict)
    manager.save(state, 'float32')
    del state
    for _ in range(5):
      params = step(params)
    jax.block_until_ready(params)
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  manager = checkpoints.CheckpointManager(str(tmp_path))
  with contextlib.closing(manager):
    restored = manager.restore(
      1,
      State(shapes['state']['step'], shapes['target']),
      State(sharding, dict.fromkeys(params, sharding)),
      RestoreCheckpointConfig(path=str(tmp_path)),
    )
  assert_equal(jax.device_get(restored['target']), expected)


def test_half_written_checkpoint_is_none(saved, state, tmp_path):
  half = tmp_path / 'checkpoint_9.orbax-checkpoint-tmp'
  (half / 'state').mkdir(parents=True)
  assert checkpoints.latest_step(str(tmp_path)) is None
  with pytest.raises(FileNotFoundError, match='holds no checkpoint_<step>'):
    checkpoints.locate(RestoreCheckpointConfig(path=str(tmp_path)))
  # Only a writer may clean up.
  checkpoints.CheckpointManager(str(tmp_path)).close()
  assert half.is_dir()
  save(tmp_path, state)
  assert not half.exists()
  assert checkpoints.latest_step(str(tmp_path)) == 7


def test_latest_step_does_not_see_a_checkpoint_being_written(state, tmp_path):
  """Until a checkpoint is complete on disk, the previous one is the last."""
  save(tmp_path, state)

  class Looking:
    def save(self, filename):
      seen.append(checkpoints.latest_step(str(tmp_path)))
      pathlib.Path(filename).write_text('here')

  seen = []
  manager = checkpoints.CheckpointManager(str(tmp_path), create=True)
  with contextlib.closing(manager):
    manager.save(
      state.replace_step(jnp.asarray(8, jnp.int32)), 'float32', Looking()
    )
  assert seen == [7]
  assert checkpoints.latest_step(str(tmp_path)) == 8


def test_last_checkpoints_are_kept(state, tmp_path):
  states = [
    state.replace_step(jnp.asarray(step, jnp.int32)) for step in (1, 2, 3)
  ]
  save(tmp_path, *states, keep=2)
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    'checkpoint_2',
    'checkpoint_3',
  ]
  assert checkpoints.locate(RestoreCheckpointConfig(path=str(tmp_path))) == (
    str(tmp_path),
    3,
  )


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['bfloat16', None])
def test_parameters_are_saved_and_restored_in_a_dtype(
  initializer, state, tmp_path, dtype
):
  save(tmp_path, state, dtype=dtype)
  restored = initializer.from_checkpoint(
    RestoreCheckpointConfig(path=str(tmp_path))
  )
  for ours, theirs in zip(
    jax.tree.leaves(restored.params), jax.tree.leaves(state.params), strict=True
  ):
    assert ours.dtype == jnp.float32
    expected = theirs.astype(dtype or 'float32').astype('float32')
    np.testing.assert_array_equal(ours, expected)
  narrow = initializer.from_checkpoint(
    RestoreCheckpointConfig(path=str(tmp_path), dtype='bfloat16')
  )
  assert {x.dtype for x in jax.tree.leaves(narrow.params)} == {
    jnp.dtype('bfloat16')
  }
  assert all(
    x.dtype != 'bfloat16' for x in jax.tree.leaves(narrow.param_states)
  )


@pytest.mark.parametrize(
  ('network', 'first'),
  [
    (
      {'mlp_dim': 64},
      r'target/decoder/layers_0/mlp/wi_0/kernel is \(16, 32\) there and '
      r'\(16, 64\) here \(0 missing, 0 left over, [1-9]\d* of another shape\)',
    ),
    (
      {'encoder_mixing': ('attention', 'attention')},
      r'it lacks target/encoder/layers_0/attention/key/kernel '
      r'\(5 missing, 1 left over, 0 of another shape\)',
    ),
    (
      {'num_decoder_layers': 0},
      r'it also has target/decoder/layers_0/\S+ '
      r'\(0 missing, [1-9]\d* left over, 0 of another shape\)',
    ),
  ],
)
def test_another_architecture_is_one_line(saved, network, first):
  initializer = small_runs.make_initializer(small_runs.make_model(**network))
  with pytest.raises(ValueError, match='another architecture') as error:
    initializer.from_checkpoint(RestoreCheckpointConfig(path=str(saved)))
  assert re.fullmatch(
    rf'\S+checkpoint_7 was written by another architecture: {first}; use the '
    'gin file it was trained with, or another MODEL_DIR or checkpoint',
    str(error.value),
  ), str(error.value)


def test_another_optimizer_is_one_line(saved):
  model = small_runs.make_model()
  model.optimizer_def = optimizers.adamw(0.01)
  with pytest.raises(
    ValueError, match=r'by another optimizer: it lacks state/param_states/'
  ):
    small_runs.make_initializer(model).from_checkpoint(
      RestoreCheckpointConfig(path=str(saved))
    )


def test_weights_without_an_optimizer_name_the_remedy(saved, tmp_path):
  leaves = checkpoint_leaves.read(epath.Path(saved / 'checkpoint_7'), list)
  bare = {n: x for n, x in leaves.items() if 'param_states' not in n}
  path = tmp_path / 'bare/checkpoint_7'
  checkpoint_leaves.write(epath.Path(path.parent), 7, bare)
  initializer = small_runs.make_initializer(small_runs.make_model())
  cfg = RestoreCheckpointConfig(path=str(path))
  with pytest.raises(ValueError, match=r'no optimizer state.*start_from_weigh'):
    initializer.from_checkpoint(cfg)
  # As gin/runs/start_from_weights.gin has it.
  cfg = dataclasses.replace(
    cfg, assignment_map=((r'state/.*', None),), fallback_to_scratch=True
  )
  restored = initializer.from_checkpoint(cfg, jax.random.key(0))
  assert restored.step == 0
  name = 'token_embedder/embedding'
  np.testing.assert_array_equal(
    traverse_util.flatten_dict(restored.params, sep='/')[name],
    leaves[f'target/{name}'],
  )


# Encoder layer 1 of the checkpoint uses attention; here layer 0 does.
TURNED = {'encoder_mixing': ('attention', 'fourier')}


@pytest.mark.slow
def test_assignment_map_renames_and_drops(saved, state):
  initializer = small_runs.make_initializer(small_runs.make_model(**TURNED))
  cfg = RestoreCheckpointConfig(
    path=str(saved),
    assignment_map=[
      (
        r'(.*)/encoder/layers_0/attention/(.*)',
        r'\1/encoder/layers_1/attention/\2',
      ),
      (
        r'(.*)/encoder/layers_0/pre_attention_layer_norm/(.*)',
        r'\1/encoder/layers_1/pre_attention_layer_norm/\2',
      ),
      (r'.*/encoder/layers_1/.*', None),
    ],
  )
  rng = jax.random.PRNGKey(2)
  restored = flat(initializer.from_checkpoint(cfg, rng))
  before, fresh = flat(state), flat(initializer.from_scratch(rng))
  kernel = 'target/encoder/layers_{}/attention/query/kernel'
  np.testing.assert_array_equal(
    restored[kernel.format(0)], before[kernel.format(1)]
  )
  dropped = 'target/encoder/layers_1/mlp/wi_0/kernel'
  np.testing.assert_array_equal(restored[dropped], fresh[dropped])
  assert not np.array_equal(restored[dropped], before[dropped])
  assert restored['state/step'] == 7
  with pytest.raises(ValueError, match='there is no seed'):
    initializer.from_checkpoint(cfg)


LAYER_NORM = r'(.*)/pre_attention_layer_norm/scale'


@pytest.mark.parametrize(
  ('assignment_map', 'message'),
  [
    # The singular, a typo: no parameter has that name.
    (
      [('target/encoder/layer_0/mlp/(.*)', None)],
      'such as target/encoder/layers_0/mlp/',
    ),
    # The first pattern leaves nothing to the second.
    (
      [(LAYER_NORM, None), (re.compile(LAYER_NORM), None)],
      f'{LAYER_NORM!r} matches none',
    ),
    (
      [('target/token_embedder/(.*)', r'target/embeddings/\1')],
      'fills target/token_embedder/embedding from target/embeddings/embedding, '
      'which the checkpoint lacks; it has target/',
    ),
  ],
)
def test_assignment_map_that_does_nothing_is_refused(
  saved, initializer, assignment_map, message
):
  cfg = RestoreCheckpointConfig(
    path=str(saved), assignment_map=assignment_map, fallback_to_scratch=True
  )
  with pytest.raises(ValueError, match=re.escape(message)) as error:
    initializer.from_checkpoint(cfg, jax.random.PRNGKey(0))
  assert '\n' not in str(error.value)


def test_state_of_the_optimizer_may_be_lacking_if_not_strict(saved, state):
  """As of a checkpoint of another optimizer; parameters may not."""
  model = small_runs.make_model()
  model.optimizer_def = optimizers.sgd(0.01, momentum=0.9)
  initializer = small_runs.make_initializer(model)
  rng = jax.random.PRNGKey(2)
  with pytest.raises(ValueError, match='written by another optimizer'):
    initializer.from_checkpoint(RestoreCheckpointConfig(path=str(saved)), rng)
  cfg = RestoreCheckpointConfig(path=str(saved), strict=False)
  restored, before = flat(initializer.from_checkpoint(cfg, rng)), flat(state)
  states = [name for name in restored if name not in before]
  assert states and all(name.startswith('state/') for name in states)
  for name in restored.keys() & before.keys():
    np.testing.assert_array_equal(restored[name], before[name], err_msg=name)
  other = small_runs.make_initializer(small_runs.make_model(**TURNED))
  with pytest.raises(ValueError, match='written by another architecture'):
    other.from_checkpoint(cfg, rng)


def test_each_of_several_checkpoints(tmp_path, saved):
  for step in (2, 11):
    shutil.copytree(saved / 'checkpoint_7', tmp_path / f'checkpoint_{step}')
  paths = [f'{tmp_path}/checkpoint_{step}' for step in (2, 11)]
  for cfg, expected in (
    ({'path': str(tmp_path), 'mode': 'all'}, paths),
    ({'path': paths[::-1], 'mode': 'specific'}, paths[::-1]),
    ({'path': paths[0], 'mode': 'specific'}, paths[:1]),
    (
      {'path': [str(saved), str(tmp_path)], 'mode': 'all'},
      [f'{saved}/checkpoint_7', *paths],
    ),
  ):
    each = checkpoints.each(RestoreCheckpointConfig(**cfg, dtype='bfloat16'))
    assert [(one.path, one.mode) for one in each] == [
      (path, 'specific') for path in expected
    ]
    assert {one.dtype for one in each} == {'bfloat16'}
  with pytest.raises(FileNotFoundError, match='holds no checkpoint_<step>'):
    checkpoints.each(RestoreCheckpointConfig(path='nowhere', mode='all'))


def test_fallback_to_scratch_initialises_what_is_lacking(saved, state):
  initializer = small_runs.make_initializer(small_runs.make_model(**TURNED))
  cfg = RestoreCheckpointConfig(path=str(saved), fallback_to_scratch=True)
  rng = jax.random.PRNGKey(2)
  restored = flat(initializer.from_checkpoint(cfg, rng))
  before, fresh = flat(state), flat(initializer.from_scratch(rng))
  for name, value in restored.items():
    source = before if name in before else fresh
    np.testing.assert_array_equal(value, source[name], err_msg=name)
  assert any(name not in before for name in restored)


@pytest.mark.parametrize(
  ('name', 'mode', 'error', 'message'),
  [
    ('', 'specific', ValueError, 'name one as .*checkpoint_<step>'),
    ('checkpoint_8', 'specific', FileNotFoundError, 'checkpoint_8 is not'),
    ('checkpoint_8', 'latest', FileNotFoundError, 'checkpoint_8 is not'),
    ('nowhere', 'latest', FileNotFoundError, 'holds no checkpoint_<step>'),
  ],
)
def test_missing_checkpoint_is_one_line(saved, name, mode, error, message):
  path = f'{saved}/{name}' if name else str(saved)
  with pytest.raises(error, match=message) as caught:
    checkpoints.locate(RestoreCheckpointConfig(path=path, mode=mode))
  assert path in str(caught.value) and '\n' not in str(caught.value)


def test_configs_refuse_what_they_do_not_know():
  with pytest.raises(ValueError, match="dtype is 'float17'"):
    SaveCheckpointConfig(dtype='float17')
  with pytest.raises(ValueError, match="dtype is 'float17'"):
    RestoreCheckpointConfig(dtype='float17')
  with pytest.raises(ValueError, match="mode is 'each'"):
    RestoreCheckpointConfig(mode='each')
  for several in ({'path': ['a', 'b']}, {'path': 'a', 'mode': 'all'}):
    with pytest.raises(ValueError, match='only evaluation takes several'):
      checkpoints.locate(RestoreCheckpointConfig(**several))
  for config in (RestoreCheckpointConfig, SaveCheckpointConfig):
    with pytest.raises(ValueError, match='takes none; rename or skip'):
      config(state_transformation_fns=[flat])
  with pytest.raises(ValueError, match='checkpoint_steps is -1'):
    SaveCheckpointConfig(checkpoint_steps=[3, -1])
  with pytest.raises(ValueError, match='use_orbax = False: the embedded'):
    checkpoints.check_orbax(False)
  assert RestoreCheckpointConfig(path=['a']).path == 'a'
  assert RestoreCheckpointConfig(path=[]).path == ''


@pytest.mark.parametrize('keep', [0, -1, 1.5, True, '3'])
def test_number_of_checkpoints_to_keep_is_at_least_one(keep):
  with pytest.raises(
    ValueError, match=f'KEEP_CHECKPOINTS is {keep!r}; it must'
  ):
    SaveCheckpointConfig(keep=keep)
  assert SaveCheckpointConfig(keep=None).keep is None


def test_missing_position_in_the_data_is_one_line(saved, initializer):
  with pytest.raises(ValueError, match='holds no position in the training'):
    initializer.from_checkpoint(
      RestoreCheckpointConfig(path=str(saved)), iterator=object()
    )


def test_layers_are_told_together():
  assert checkpoints.layers_together(
    ['a/layers_0/b', 'c', 'a/layers_10/b', 'a/layers_1/d/e']
  ) == ['a/layers_{0,10}/b', 'c', 'a/layers_{1}/d/e']
