"""Checksums: every restored bit is as saved."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import time

import jax
import numpy as np
import pytest
import small_runs
from etils import epath
from flax import traverse_util
from orbax.checkpoint._src.metadata import checkpoint as orbax_metadata

from fnet_t5x.runtime import (
  checkpoints,
  checksums,
  damaged_checkpoints,
  model_directory,
)
from fnet_t5x.runtime.checkpoints import RestoreCheckpointConfig

# Orbax's commit marker, which is not restored.
MARKER = 'commit_success.txt'


class Iterator:
  """A position in the data that is a single number in its own file."""

  def __init__(self, position=None):
    self.position = position

  def save(self, filename):
    pathlib.Path(filename).write_text(f'position {self.position}')

  def restore(self, filename):
    self.position = int(pathlib.Path(filename).read_text().split()[1])


@pytest.fixture(scope='module')
def initializer():
  return small_runs.make_initializer(small_runs.bigram_model())


@pytest.fixture(scope='module')
def reader():
  """The restore of generation and evaluation: parameters only."""
  model = small_runs.bigram_model()
  model.optimizer_def = None
  return small_runs.make_initializer(model)


@pytest.fixture(scope='module')
def states(initializer):
  return {
    step: initializer.from_scratch(jax.random.PRNGKey(step)).replace_step(
      np.asarray(step, np.int32)
    )
    for step in (19, 38)
  }


@pytest.fixture(scope='module')
def saved(states, tmp_path_factory):
  folder = tmp_path_factory.mktemp('saved')
  manager = checkpoints.CheckpointManager(str(folder), create=True)
  with contextlib.closing(manager):
    for step, state in states.items():
      manager.save(state, 'float32', Iterator(step))
  (folder / 'config.gin').write_text('')
  return folder


def flat(state):
  return traverse_util.flatten_dict(jax.device_get(state.state_dict()), sep='/')


def delete(path):
  path.unlink()


def cut(path):
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])


def empty(path):
  path.write_bytes(b'')


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1 << (len(content) % 8)
  path.write_bytes(content)


def replace_by_folder(path):
  path.unlink()
  path.mkdir()


def resume(initializer, folder):
  """Restores like a resuming run: returns state, position and output."""
  said, iterator = [], Iterator()

  def restore(step):
    path = f'{folder}/checkpoint_{step}'
    cfg = RestoreCheckpointConfig(path=path, mode='specific')
    return initializer.from_checkpoint(cfg, None, iterator)

  state = damaged_checkpoints.restored(
    checkpoints.steps(str(folder)),
    lambda step: f'{folder}/checkpoint_{step}',
    restore,
    said.append,
  )
  return state, iterator.position, said


@pytest.mark.slow
@pytest.mark.parametrize(
  'damage',
  [delete, cut, empty, flip, replace_by_folder],
  ids=lambda damage: damage.__name__,
)
def test_every_file(
  initializer, reader, states, saved, tmp_path, damage, capfd
):
  checkpoint = saved / 'checkpoint_38'
  files = [p for p in sorted(checkpoint.rglob('*')) if p.is_file()]
  names = [str(p.relative_to(checkpoint)) for p in files]
  assert {'checksums.json', 'state/_METADATA', 'state/manifest.ocdbt'} < {
    *names
  }
  assert any(name.startswith('dataset/') for name in names)
  for number, name in enumerate(names):
    folder = tmp_path / str(number)
    shutil.copytree(saved, folder)
    damaged = folder / 'checkpoint_38'
    damage(damaged / name)

    before = sorted(p.name for p in folder.iterdir())
    if name == MARKER:
      assert int(resume(initializer, folder)[0].step) == 38
      continue
    cfg = RestoreCheckpointConfig(path=str(folder))
    if name.startswith('dataset/'):
      # Not part of the model, but reported nevertheless.
      capfd.readouterr()
      assert int(reader.from_checkpoint(cfg).step) == 38
      line = f'{damaged}: {name} '
      assert capfd.readouterr().out.startswith(line), name
    else:
      with pytest.raises(damaged_checkpoints.DamagedError) as error:
        reader.from_checkpoint(cfg)
      line = str(error.value)
      assert line.startswith(f'{damaged} is damaged: {name} '), line
      assert line.endswith(f'{folder}/checkpoint_19 (--checkpoint_step=19)')
      assert '\n' not in line
      if damage is not flip:
        # Detected before heavy imports, too.
        with pytest.raises(damaged_checkpoints.DamagedError) as at_once:
          model_directory.locate(folder)
        assert name in str(at_once.value)
      assert model_directory.locate(folder, 19).step == 19
    assert sorted(p.name for p in folder.iterdir()) == before

    state, position, said = resume(initializer, folder)
    assert position == 19
    expected = flat(states[19])
    for leaf, value in flat(state).items():
      np.testing.assert_array_equal(value, expected[leaf], err_msg=leaf)
    assert said[0].startswith(f'{damaged} is damaged: {name} ')
    assert said[1:] == ['  set aside as damaged_checkpoint_38']
    assert (folder / 'damaged_checkpoint_38').is_dir()
    assert checkpoints.steps(str(folder)) == [19]


def test_whole_checkpoint_is_restored_without_a_word(
  initializer, states, saved, capfd
):
  state, position, said = resume(initializer, saved)
  expected = flat(states[38])
  for leaf, value in flat(state).items():
    np.testing.assert_array_equal(value, expected[leaf], err_msg=leaf)
  assert (position, said) == (38, [])
  assert not capfd.readouterr().out


def test_slow_metadata_of_orbax_are_waited_for(states, tmp_path, monkeypatch):
  """A thread of Orbax's writes them, maybe after all other files."""
  update = orbax_metadata._MetadataStoreImpl.update

  def late(*args, **kwargs):
    time.sleep(0.3)
    return update(*args, **kwargs)

  monkeypatch.setattr(orbax_metadata._MetadataStoreImpl, 'update', late)
  manager = checkpoints.CheckpointManager(str(tmp_path), create=True)
  with contextlib.closing(manager):
    manager.save(states[19], 'float32')
  assert checksums.is_recorded(tmp_path / 'checkpoint_19')
  assert checksums.damages(tmp_path / 'checkpoint_19') == []


def test_checksums_are_those_of_another_program(saved):
  """`b2sum -l 256` prints the same."""
  checkpoint = saved / 'checkpoint_38'
  record = json.loads((checkpoint / 'checksums.json').read_text())
  found = {
    str(p.relative_to(checkpoint)) for p in checkpoint.rglob('*') if p.is_file()
  }
  assert {*record['files']} == found - {'checksums.json', MARKER}
  for name, entry in record['files'].items():
    if name == '_CHECKPOINT_METADATA':  # Changed after the record is written.
      continue
    content = (checkpoint / name).read_bytes()
    digest = hashlib.blake2b(content, digest_size=32).hexdigest()
    assert entry == {'bytes': len(content), 'blake2b': digest}


def test_a_checkpoint_without_checksums_is_taken_with_a_line(
  initializer, saved, tmp_path, capfd
):
  """Like T5X's. Losing only the file is damage: see `test_every_file`."""
  folder = tmp_path / 'run'
  shutil.copytree(saved, folder)
  (folder / 'checkpoint_38/checksums.json').unlink()
  (folder / 'checkpoint_38/_CHECKPOINT_METADATA').write_text(
    json.dumps({'item_handlers': {}, 'custom_metadata': {}})
  )
  assert int(resume(initializer, folder)[0].step) == 38
  line = f'{folder}/checkpoint_38: no checksums.json; taken unchecked\n'
  assert capfd.readouterr().out == line


def test_whole_parameters_of_the_only_checkpoint_are_pointed_to(
  initializer, saved, tmp_path
):
  folder = tmp_path / 'run'
  shutil.copytree(saved / 'checkpoint_38', folder / 'checkpoint_38')
  flip(next((folder / 'checkpoint_38/dataset').glob('train_ds*')))
  with pytest.raises(
    damaged_checkpoints.DamagedError, match=r'parameters .*INITIAL_CHECKPOINT'
  ):
    resume(initializer, folder)


def test_an_error_that_is_no_damage_sets_nothing_aside(
  initializer, saved, tmp_path, monkeypatch
):
  folder = tmp_path / 'run'
  shutil.copytree(saved, folder)

  def restore(self, filename):
    raise RuntimeError('the pipeline has changed')

  monkeypatch.setattr(Iterator, 'restore', restore)
  with pytest.raises(RuntimeError, match='the pipeline has changed'):
    resume(initializer, folder)
  assert checkpoints.steps(str(folder)) == [19, 38]


def record(files):
  """A self-consistent record of arbitrary names."""
  return checksums._text(files)


@pytest.mark.parametrize(
  'content',
  [
    record({'../secret': {'bytes': 1, 'blake2b': ''}}),
    record({'/etc/passwd': {'bytes': 1, 'blake2b': ''}}),
    record({'a//b': {'bytes': 1, 'blake2b': ''}}),
    record({'a\\b': {'bytes': 1, 'blake2b': ''}}),
    record({'a': None}),
    record({'a': {'bytes': 'many'}}),
    b'[' * 100_000,
    b'{"files": []}',
    b'1',
    b'\xff\xfe',
  ],
)
def test_a_hostile_record_is_damage_itself(tmp_path, content):
  (tmp_path / 'checksums.json').write_bytes(content)
  assert checksums.damages(tmp_path) == [
    checksums.Damage('checksums.json', 'is not what was saved')
  ]


def test_no_more_is_read_than_was_saved(tmp_path):
  """An endless file is detected by its size."""
  (tmp_path / 'data').write_bytes(b'1234')
  checksums.write(tmp_path)
  (tmp_path / 'data').unlink()
  (tmp_path / 'data').symlink_to('/dev/zero')
  (damage,) = checksums.damages(tmp_path)
  assert damage.file == 'data'
  (tmp_path / 'data').unlink()
  os.mkfifo(tmp_path / 'data')
  (damage,) = checksums.damages(tmp_path)
  assert damage.file == 'data'


def test_paths_of_remote_folders(tmp_path, monkeypatch):
  """`etils` reads gs:// through the interface of all its paths."""
  (tmp_path / 'state').mkdir()
  (tmp_path / 'state/a').write_bytes(b'12')
  monkeypatch.setattr(checksums, '_path', epath.Path)
  checksums.write(tmp_path)
  assert checksums.is_recorded(tmp_path) and not checksums.damages(tmp_path)
  flip(tmp_path / 'state/a')
  (damage,) = checksums.damages(tmp_path)
  assert damage.reason == 'is not what was saved (its checksum differs)'
  cut(tmp_path / 'state/a')
  (damage,) = checksums.damages(tmp_path)
  assert damage.reason == 'has 1 bytes (2 were saved)'
