"""A damaged checkpoint is never taken for whole, nor ends a run for good.

Those of T5X, which have no checksums; `checksums_test.py` has those of ours.
"""

import contextlib
import pathlib
import shutil

import jax
import numpy as np
import pytest
import small_runs
from flax import traverse_util

from fnet_t5x.runtime import (
  checkpoints,
  damaged_checkpoints,
)


def flat(state):
  return traverse_util.flatten_dict(jax.device_get(state.state_dict()), sep='/')


@pytest.fixture(scope='module')
def initializer():
  return small_runs.make_initializer(small_runs.make_model())


@pytest.fixture(scope='module')
def states(initializer):
  """The states of steps 1 and 2, with different parameters."""
  return {
    step: initializer.from_scratch(jax.random.PRNGKey(step)).replace_step(
      np.asarray(step, np.int32)
    )
    for step in (1, 2)
  }


@pytest.fixture(scope='module')
def saved(states, tmp_path_factory):
  folder = tmp_path_factory.mktemp('saved')
  manager = checkpoints.CheckpointManager(str(folder), create=True)
  with contextlib.closing(manager):
    for state in states.values():
      manager.save(state, 'float32')
      manager.wait_until_finished()
  for step in states:
    small_runs.forget_checksums(folder / f'checkpoint_{step}')
  return folder


def restore(initializer, folder, said=None):
  """Restores like a resuming run."""

  def restore_step(step):
    return initializer.from_checkpoint(
      checkpoints.RestoreCheckpointConfig(
        path=f'{folder}/checkpoint_{step}', mode='specific'
      )
    )

  return damaged_checkpoints.restored(
    checkpoints.steps(str(folder)),
    lambda step: f'{folder}/checkpoint_{step}',
    restore_step,
    said.append if said is not None else print,
  )


def cut(path: pathlib.Path) -> None:
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])


def replaced(path: pathlib.Path) -> None:
  path.unlink()
  path.mkdir()


@pytest.mark.slow
@pytest.mark.parametrize(
  'damage',
  [pathlib.Path.unlink, lambda path: path.write_bytes(b''), cut, replaced],
  ids=['deleted', 'emptied', 'cut', 'a folder'],
)
def test_no_damaged_file_is_taken_for_whole(
  initializer, states, saved, tmp_path, damage
):
  files = [
    path.relative_to(saved)
    for path in sorted((saved / 'checkpoint_2').rglob('*'))
    if path.is_file()
  ]
  assert len(files) > 5
  set_aside = 0
  for number, file in enumerate(files):
    folder = tmp_path / str(number)
    shutil.copytree(saved, folder)
    damage(folder / file)
    said = []
    got = restore(initializer, folder, said)
    # A file that no reader needs may be missing; values are then as saved.
    step = int(got.step)
    want = flat(states[step])
    for name, value in flat(got).items():
      np.testing.assert_array_equal(value, want[name], err_msg=f'{file} {name}')
    names = {path.name for path in folder.glob('*checkpoint_*')}
    if step == 1:
      set_aside += 1
      assert names == {'checkpoint_1', 'damaged_checkpoint_2'}, file
      damaged, aside = said
      assert damaged.startswith(f'{folder}/checkpoint_2 is damaged: ')
      assert aside == '  set aside as damaged_checkpoint_2'
      assert '\n' not in damaged
    else:
      assert names == {'checkpoint_1', 'checkpoint_2'}
      assert not said
  # Metadata, the manifest and the data are always needed.
  assert set_aside >= 3


@pytest.mark.parametrize(
  ('file', 'damage', 'detail'),
  [
    ('state/_METADATA', pathlib.Path.unlink, 'state/_METADATA is missing'),
    ('state/_METADATA', cut, 'state/_METADATA is truncated'),
    ('state', shutil.rmtree, 'state/_METADATA is missing'),
    ('state/manifest.ocdbt', pathlib.Path.unlink, 'manifest.ocdbt is missing'),
    ('state/d', shutil.rmtree, 'cannot be read'),
  ],
)
def test_the_file_is_named(initializer, saved, tmp_path, file, damage, detail):
  folder = tmp_path / 'run'
  shutil.copytree(saved, folder)
  damage(folder / 'checkpoint_2' / file)
  with pytest.raises(damaged_checkpoints.DamagedError) as error:
    initializer.from_checkpoint(
      checkpoints.RestoreCheckpointConfig(path=str(folder))
    )
  assert f'{folder}/checkpoint_2 is damaged: ' in str(error.value)
  assert detail in str(error.value)
  # A reader renames nothing.
  assert (folder / 'checkpoint_2').is_dir()


@pytest.mark.slow
def test_an_empty_folder_is_set_aside(initializer, states, saved, tmp_path):
  folder = tmp_path / 'run'
  shutil.copytree(saved, folder)
  (folder / 'checkpoint_99').mkdir()
  (folder / 'damaged_checkpoint_99').mkdir()
  got = restore(initializer, folder)
  assert int(got.step) == 2
  assert sorted(path.name for path in folder.iterdir()) == [
    'checkpoint_1',
    'checkpoint_2',
    'damaged_checkpoint_99',
    'damaged_checkpoint_99_2',
  ]


def test_where_none_is_whole_nothing_is_renamed(initializer, saved, tmp_path):
  folder = tmp_path / 'run'
  shutil.copytree(saved, folder)
  for step in (1, 2):
    (folder / f'checkpoint_{step}/state/_METADATA').unlink()
  with pytest.raises(
    damaged_checkpoints.DamagedError,
    match=r'checkpoint_2 is damaged: .*; none of the 2 checkpoints',
  ) as error:
    restore(initializer, folder)
  assert '\n' not in str(error.value)
  assert {p.name for p in folder.iterdir()} == {'checkpoint_1', 'checkpoint_2'}
