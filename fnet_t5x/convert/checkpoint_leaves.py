"""Leaves of a checkpoint: arrays by name, read and written."""

import contextlib
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from fnet_t5x.runtime import (
  checkpoints,
  checksums,
  damaged_checkpoints,
)

# Limits on the size of arrays relative to that of their files: zeros compress
# to almost nothing, parameters hardly at all.
_MAX_COMPRESSION = 1000
_ALWAYS_ALLOWED_BYTES = 1 << 30


def read(
  source: epath.Path, steps: damaged_checkpoints.Steps
) -> dict[str, np.ndarray]:
  """Reads all arrays of a checkpoint, by names joined by '/'.

  Args:
    source: `.../checkpoint_<step>`.
    steps: function that returns the steps of the folder's checkpoints.

  Raises:
    DamagedError: the checkpoint is damaged, or claims implausible sizes.
    ValueError: it is not in Orbax's layout.
  """
  reading = contextlib.nullcontext()
  if not damaged_checkpoints.check(source, steps):
    reading = damaged_checkpoints.reading(source, steps)
  state = source / checkpoints.STATE
  if not state.is_dir():
    raise ValueError(f'{source} has no Orbax {checkpoints.STATE!r}')
  with reading, ocp.PyTreeCheckpointer() as reader:
    tree = reader.metadata(state).item_metadata.tree
    as_numpy = traverse_util.flatten_dict(tree, sep='/')
    _check_size(source, state, as_numpy.values())
    arrays = {n: ocp.RestoreArgs(restore_type=np.ndarray) for n in as_numpy}
    restored = reader.restore(
      state, restore_args=traverse_util.unflatten_dict(arrays, sep='/')
    )
  return traverse_util.flatten_dict(restored, sep='/')


def _check_size(
  source: epath.Path, state: epath.Path, arrays: Iterable[Any]
) -> None:
  """Refuses arrays that are implausibly large for the size of their files.

  The expected sizes are not known here: there is no network to compare with.
  """
  claimed = sum(math.prod(a.shape) * np.dtype(a.dtype).itemsize for a in arrays)
  stored = sum((state / name).stat().length for name in checksums.names(state))
  if claimed > _MAX_COMPRESSION * stored + _ALWAYS_ALLOWED_BYTES:
    raise damaged_checkpoints.DamagedError(
      f'{source} claims arrays of {claimed:,} bytes in files of {stored:,}',
      'restore it from a copy',
    )


class _State:
  """Adapter from leaves to the state that `CheckpointManager.save` takes."""

  def __init__(self, step: int, leaves: Mapping[str, np.ndarray]):
    self.step = step
    self._leaves = leaves

  def state_dict(self) -> dict[str, Any]:
    return traverse_util.unflatten_dict(dict(self._leaves), sep='/')


class _SavedPosition:
  """Position in the training data, copied without being read."""

  def __init__(self, folder: epath.Path):
    self._folder = folder

  def save(self, path: str) -> None:
    for file in self._folder.iterdir():
      shutil.copy(file, os.path.dirname(path))


def write(
  directory: epath.Path,
  step: int,
  leaves: Mapping[str, np.ndarray],
  dataset: epath.Path | None = None,
) -> None:
  """Writes `<directory>/checkpoint_<step>`, atomically.

  Args:
    directory: the folder of the checkpoint; created if missing.
    step: of the checkpoint.
    leaves: arrays by name: `target/...` and `state/...`.
    dataset: folder with the position in the training data to copy, if it
      exists.
  """
  manager = checkpoints.CheckpointManager(str(directory), create=True)
  position = None
  if dataset is not None and dataset.is_dir():
    position = _SavedPosition(dataset)
  manager.save(_State(step, leaves), None, position)
  manager.close()
