"""Conversion of checkpoints between scanned and unscanned layers."""

import pathlib
import shutil
import subprocess
import sys

import bad_input_test
import gin
import gin_commands
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import small_runs
from etils import epath
from flax.traverse_util import flatten_dict

from fnet_t5x.convert import checkpoint, checkpoint_leaves, scanned_layers
from fnet_t5x.runtime import (
  checkpoints,
  model_directory,
  optimizers,
  utils,
)
from fnet_t5x.runtime import metrics as metrics_lib
from fnet_t5x.runtime import train as train_lib

pytestmark = pytest.mark.slow

# All sides are at least 128: Adafactor factors every kernel in both layouts.
WIDE = {
  'emb_dim': 128,
  'head_dim': 16,
  'mlp_dim': 160,
  'num_encoder_layers': 3,
  'num_decoder_layers': 2,
  'encoder_mixing': ('fourier', 'fourier', 'attention'),
}
NARROW = WIDE | {'emb_dim': 16, 'head_dim': 4, 'mlp_dim': 24}


def make_trainer(sizes, **choices):
  return small_runs.make_trainer(
    small_runs.make_model(**sizes, **choices),
    small_runs.one_device(),
    small_runs.packed_batch(0),
  )


def random_state(optimizer=None, **choices):
  """Makes the leaves of a random state, without compiling anything."""
  model = small_runs.make_model(**NARROW, **choices)
  batch = small_runs.packed_batch(0)
  initializer = utils.TrainStateInitializer(
    optimizer or model.optimizer_def,
    model.get_initial_variables,
    {name: x.shape for name, x in batch.items()},
    small_runs.one_device(),
    {name: x.dtype for name, x in batch.items()},
  )
  shapes = initializer.global_train_state_shape.state_dict()
  random = np.random.default_rng(0)
  return {
    name: random.uniform(0.5, 1.5, x.shape).astype(x.dtype)
    for name, x in flatten_dict(shapes, sep='/').items()
  }


def step(trainer, seed):
  """Returns loss and gradient norm of one step."""
  batch = small_runs.packed_batch(seed)
  metrics = metrics_lib.scalars(trainer.train(iter([batch]), 1)[0])
  return [metrics['loss'], metrics['grad_norm']]


def save(trainer, directory):
  manager = checkpoints.CheckpointManager(str(directory), create=True)
  manager.save(trainer.train_state, None)
  manager.close()
  return directory / f'checkpoint_{int(trainer.train_state.step)}'


def restore(trainer, path):
  """Fills the trainer's state from a checkpoint, as a run does."""
  state = trainer.train_state
  manager = checkpoints.CheckpointManager(str(path.parent))
  shardings = jax.tree.map(lambda x: x.sharding, state)
  restored = manager.restore(
    int(path.name.split('_')[1]),
    jax.eval_shape(lambda: state),
    shardings,
    checkpoints.RestoreCheckpointConfig(path=str(path), mode='specific'),
  )
  trainer.train_state = state.restore_state(restored)


def leaves(path):
  with ocp.PyTreeCheckpointer() as reader:
    return flatten_dict(reader.restore(path / 'state'), sep='/')


def assert_same(got, want):
  assert got.keys() == want.keys()
  for name, value in want.items():
    np.testing.assert_array_equal(got[name], value, err_msg=name)
    assert np.asarray(got[name]).dtype == np.asarray(value).dtype, name


@pytest.fixture(scope='module')
def unscanned(tmp_path_factory):
  """A trainer after two steps, and its checkpoint."""
  trainer = make_trainer(WIDE, relpos_bias_per_layer=True)
  for seed in range(2):
    step(trainer, seed)
  return trainer, save(trainer, tmp_path_factory.mktemp('unscanned'))


def test_round_trip_is_exact_and_training_resumes(unscanned, tmp_path):
  trainer, path = unscanned
  scanned = checkpoint.convert(path, tmp_path / 'scanned')
  back = checkpoint.convert(scanned, tmp_path / 'back')
  assert_same(leaves(back), leaves(path))
  assert not scanned_layers.is_scanned(leaves(back))

  goes_on = make_trainer(WIDE, scan_layers=True)
  restore(goes_on, scanned)
  before = trainer.train_state
  # The second loss follows a step of Adafactor with the converted moments.
  want = [*step(trainer, 2), *step(trainer, 3)]
  trainer.train_state = before
  got = [*step(goes_on, 2), *step(goes_on, 3)]
  np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.fixture
def run(tmp_path):
  """The model directory of a one-step run; gin is cleared again."""
  small_runs.register()
  gin_file = tmp_path / 'run.gin'
  gin_file.write_text(bad_input_test.RUN)
  gin.clear_config()
  with gin_commands.of_main(train_lib.train):
    bad_input_test.train(gin_file, tmp_path / 'run', 'SAVE_PERIOD = 1')
  gin.clear_config()
  yield tmp_path / 'run'
  gin.clear_config()


def loss_of(model_dir):
  """Returns a packed batch's loss, from the folder's contents only."""
  gin.clear_config()
  directory = model_directory.locate(model_dir)
  batch = small_runs.packed_batch(0)
  trainer = small_runs.make_trainer(
    model_directory.configure(directory).model, small_runs.one_device(), batch
  )
  restore(trainer, pathlib.Path(directory.checkpoint))
  return metrics_lib.scalars(trainer.eval([batch]))['loss']


def test_converted_checkpoints_are_model_directories(run, tmp_path, capsys):
  """Their configuration is the run's, with the converted layout."""
  (run / 'vocabulary.model').write_bytes(b'any')
  checkpoint.convert(run, tmp_path / 'scanned')
  assert 'its config.gin sets SCAN_LAYERS = True' in capsys.readouterr().out
  checkpoint.convert(tmp_path / 'scanned', tmp_path / 'back')
  text = (run / 'config.gin').read_text()
  assert 'SCAN_LAYERS = False' in text
  for name, config in (
    ('scanned', text.replace('SCAN_LAYERS = False', 'SCAN_LAYERS = True')),
    ('back', text),
  ):
    folder = tmp_path / name
    assert (folder / 'config.gin').read_text() == config
    assert (folder / 'vocabulary.model').read_bytes() == b'any'
    assert loss_of(folder) == pytest.approx(loss_of(run), rel=1e-6)
  # Another run's configuration is kept, and nothing is written next to it.
  (tmp_path / 'other').mkdir()
  (tmp_path / 'other' / 'config.gin').write_text('A = 1')
  with pytest.raises(FileExistsError, match=r'\.gin exists .*another run'):
    checkpoint.convert(run, tmp_path / 'other')
  assert len(list((tmp_path / 'other').iterdir())) == 1


def shapes_of(leaves):
  return {name: np.shape(x) for name, x in leaves.items()}


def test_shared_position_biases():
  """T5's shared table is copied to the layers, and merged back if equal."""
  plain = random_state()
  scanned = scanned_layers.to_scanned(plain)
  assert shapes_of(scanned.leaves) == shapes_of(random_state(scan_layers=True))
  table = plain['target/decoder/relpos_bias/rel_embedding']
  np.testing.assert_array_equal(
    scanned.leaves['target/decoder/decoder/relpos_bias/rel_embedding'],
    np.stack([table] * 2, 1),
  )
  back = scanned_layers.to_unscanned(scanned.leaves)
  assert shapes_of(back.leaves) == shapes_of(plain)
  assert not back.own_biases
  parameters = [name for name in plain if name.startswith('target/')]
  assert_same(
    {name: back.leaves[name] for name in parameters},
    {name: plain[name] for name in parameters},
  )


def test_differing_layers_keep_their_own_biases():
  scanned = random_state(scan_layers=True)
  plain = scanned_layers.to_unscanned(scanned)
  assert plain.own_biases
  want = random_state(relpos_bias_per_layer=True)
  assert shapes_of(plain.leaves) == shapes_of(want)
  name = 'target/decoder/{}/relpos_bias/rel_embedding'
  np.testing.assert_array_equal(
    plain.leaves[name.format('layers_1')],
    scanned[name.format('decoder')][:, 1],
  )


def test_moments_factored_in_one_layout_only():
  """Moments are averaged one way, and estimated from averages the other way."""
  plain = random_state(relpos_bias_per_layer=True)
  scanned = scanned_layers.to_scanned(plain)
  name = 'state/param_states/encoder/{}/mlp/wo/kernel/{}'
  v = plain[name.format('layers_1', 'v')]
  assert v.shape == (24, 16)
  rows = scanned.leaves[name.format('encoder_0', 'v_row')]
  columns = scanned.leaves[name.format('encoder_0', 'v_col')]
  np.testing.assert_allclose(rows[1], v.mean(0), rtol=1e-6)  # embed
  np.testing.assert_allclose(columns[:, 1], v.mean(1), rtol=1e-6)
  back = scanned_layers.to_unscanned(scanned.leaves)
  np.testing.assert_allclose(
    back.leaves[name.format('layers_1', 'v')],
    np.outer(v.mean(1), v.mean(0)) / v.mean(),
    rtol=1e-5,
  )
  assert scanned.refactored == back.refactored > 0


def test_optax_states_are_converted_too():
  optimizer = optimizers.adamw(learning_rate=1e-3)
  plain = random_state(optimizer, relpos_bias_per_layer=True)
  scanned = scanned_layers.to_scanned(plain)
  want = random_state(optimizer, scan_layers=True)
  assert shapes_of(scanned.leaves) == shapes_of(want)
  (name,) = [n for n in want if '/mu/encoder/encoder_0/mlp/wo' in n]
  np.testing.assert_array_equal(
    scanned.leaves[name][:, 1],
    plain[name.replace('encoder/encoder_0', 'encoder/layers_1')],
  )
  assert_same(scanned_layers.to_unscanned(scanned.leaves).leaves, plain)


def test_what_cannot_be_converted(unscanned, tmp_path):
  _, path = unscanned
  with pytest.raises(FileNotFoundError, match='holds no checkpoint_<step>'):
    checkpoint.convert(tmp_path, tmp_path / 'out')
  with pytest.raises(FileExistsError, match='choose another --output'):
    checkpoint.convert(path, path.parent)
  with pytest.raises(ValueError, match='its layers are already unscanned'):
    checkpoint.convert(path, tmp_path / 'out', to='unscanned')
  bigram = small_runs.make_trainer(
    small_runs.bigram_model(),
    small_runs.one_device(),
    small_runs.packed_batch(0),
  )
  other = save(bigram, tmp_path / 'bigram')
  with pytest.raises(ValueError, match='not those of T5 or FNet-T5'):
    checkpoint.convert(other, tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


def test_errors_of_the_command_are_one_line(tmp_path):
  done = subprocess.run(
    [
      sys.executable,
      *('-m', 'fnet_t5x.convert.scan'),
      f'--checkpoint={tmp_path}/checkpoint_1',
      f'--output={tmp_path}',
    ],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1
  (line, _) = done.stderr.strip().split('\n')
  assert line.startswith('error: ') and 'checkpoint_1' in line


def test_a_damaged_checkpoint_is_not_converted(unscanned, tmp_path):
  _, path = unscanned
  copy = tmp_path / path.name
  shutil.copytree(path, copy)
  (copy / 'state/_METADATA').unlink()
  with pytest.raises(ValueError, match='state/_METADATA is missing') as error:
    checkpoint.convert(copy, tmp_path / 'out')
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'out').exists()


def test_implausibly_large_arrays_are_refused(unscanned):
  """Sizes come from metadata; refusing them allocates no memory."""
  source = epath.Path(unscanned[1])
  claimed = jax.ShapeDtypeStruct((10**6, 10**6), np.float32)
  with pytest.raises(ValueError, match='claims arrays of 4,000,000,000,000 by'):
    checkpoint_leaves._check_size(source, source / 'state', [claimed])
