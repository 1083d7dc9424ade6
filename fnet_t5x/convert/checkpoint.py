"""Conversion of checkpoints between scanned and unscanned layers."""

import contextlib
import math
import os
import re
import shutil
from collections.abc import Iterable
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from fnet_t5x.convert import scanned_layers
from fnet_t5x.runtime import (
  checkpoints,
  checksums,
  console,
  damaged_checkpoints,
  model_directory,
)

# Limits on the size of arrays relative to that of their files: zeros compress
# to almost nothing, parameters hardly at all.
_MAX_COMPRESSION = 1000
_ALWAYS_ALLOWED_BYTES = 1 << 30
LAYOUTS = ('scanned', 'unscanned')


def convert(
  checkpoint: str | os.PathLike,
  output: str | os.PathLike,
  to: str | None = None,
) -> epath.Path:
  """Converts a checkpoint to the other layout, atomically.

  Also copies the configuration and the vocabulary next to it, if any, and sets
  the new layout in the configuration, so `output` is a model directory too.

  Args:
    checkpoint: `.../checkpoint_<step>`, or a folder of them.
    output: the folder to write `checkpoint_<step>` to.
    to: 'scanned' or 'unscanned'; by default the other layout.

  Returns:
    Path of the converted checkpoint.

  Raises:
    DamagedError: the checkpoint is damaged.
    FileNotFoundError: there is no such checkpoint.
    FileExistsError: `output` already has this checkpoint, or the configuration
      or vocabulary of another run.
    ValueError: not a checkpoint of T5 or FNet-T5, or already in layout `to`.
  """
  directory, step = checkpoints.locate(
    checkpoints.RestoreCheckpointConfig(path=str(checkpoint), mode='latest')
  )
  source = epath.Path(directory) / f'{checkpoints.PREFIX}_{step}'
  target = epath.Path(os.path.abspath(output)) / source.name
  if target.exists():
    raise FileExistsError(f'{target} exists; choose another --output')
  leaves = _read(source, lambda: checkpoints.steps(directory))
  try:
    scanned = scanned_layers.is_scanned(leaves)
    to = to or LAYOUTS[scanned]
    if to == LAYOUTS[not scanned]:
      raise ValueError(f'its layers are already {to}')
    convert_leaves = (
      scanned_layers.to_unscanned if scanned else scanned_layers.to_scanned
    )
    result = convert_leaves(leaves)
  except ValueError as error:
    raise ValueError(f'{source}: {error}') from error
  macros = {'SCAN_LAYERS': to == 'scanned'}
  if result.own_biases or to == 'unscanned':
    macros['RELPOS_BIAS_PER_LAYER'] = bool(result.own_biases)
  other_files = _other_files(source.parent, target.parent, macros)
  _write(target.parent, step, result.leaves, source / checkpoints.DATASET)
  for path, content in other_files.items():
    path.write_bytes(content)
  verb = f'its {model_directory.CONFIG_FILE} sets'
  if target.parent / model_directory.CONFIG_FILE not in other_files:
    verb = 'set'
  console.print_line(f'{target}: {to}; {verb} SCAN_LAYERS = {to == "scanned"}')
  if result.own_biases:
    console.print_line(
      f'position biases differ between layers; {verb} '
      'RELPOS_BIAS_PER_LAYER = True'
    )
  if result.refactored:
    console.print_line(
      f"Adafactor's second moments of {result.refactored} parameters are "
      'factored in only one layout: averaged, or estimated from averages'
    )
  return target


def _other_files(
  source: epath.Path, target: epath.Path, macros: dict[str, bool]
) -> dict[epath.Path, bytes]:
  """Returns the contents of a model directory's other files by new path.

  Args:
    source: the model directory.
    target: the folder to write the files to.
    macros: values to set in the configuration.

  Raises:
    FileExistsError: `target` has such a file with different contents.
  """
  contents = {}
  for name in (model_directory.CONFIG_FILE, model_directory.VOCABULARY_FILE):
    if (source / name).exists():
      contents[target / name] = (source / name).read_bytes()
  config = target / model_directory.CONFIG_FILE
  if config in contents:
    text = contents[config].decode('utf-8')
    for name, value in macros.items():
      text = re.sub(rf'(?m)^{name} = .*$', f'{name} = {value}', text)
    contents[config] = text.encode('utf-8')
  for path, content in contents.items():
    if path.exists() and path.read_bytes() != content:
      raise FileExistsError(
        f'{path} exists and belongs to another run; choose another --output'
      )
  return contents


def _read(
  source: epath.Path, steps: damaged_checkpoints.Steps
) -> dict[str, np.ndarray]:
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

  def __init__(self, step: int, leaves: dict[str, np.ndarray]):
    self.step = step
    self._leaves = leaves

  def state_dict(self) -> dict[str, Any]:
    return traverse_util.unflatten_dict(self._leaves, sep='/')


class _SavedPosition:
  """Position in the training data, copied without being read."""

  def __init__(self, folder: epath.Path):
    self._folder = folder

  def save(self, path: str) -> None:
    for file in self._folder.iterdir():
      shutil.copy(file, os.path.dirname(path))


def _write(directory, step, leaves, dataset):
  manager = checkpoints.CheckpointManager(str(directory), create=True)
  position = _SavedPosition(dataset) if dataset.is_dir() else None
  manager.save(_State(step, leaves), None, position)
  manager.close()
