"""Checkpoints written anew, their layers scanned or not."""

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

# Zeros take next to nothing; parameters are none.
_MOST_COMPRESSED = 1000
_SMALL = 1 << 30
LAYOUTS = ('scanned', 'unscanned')


def convert(
  checkpoint: str | os.PathLike,
  output: str | os.PathLike,
  to: str | None = None,
) -> epath.Path:
  """Writes a checkpoint anew in the other layout, whole or not at all.

  The configuration and the vocabulary saved beside it come along: the
  configuration says the new layout, so that `output` is a model directory too.

  Args:
    checkpoint: `.../checkpoint_<step>`, or a folder of them.
    output: the folder to write `checkpoint_<step>` to.
    to: 'scanned' or 'unscanned'; None for the one that it is not in.

  Returns:
    What was written.

  Raises:
    DamagedError: it is damaged.
    FileNotFoundError: there is no such checkpoint.
    FileExistsError: there is one where this would be written, or the
      configuration or vocabulary of another run.
    ValueError: it is no checkpoint of T5 or FNet-T5, or is in `to` already.
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
      raise ValueError(f'its layers are {to} already')
    convert_leaves = (
      scanned_layers.to_unscanned if scanned else scanned_layers.to_scanned
    )
    result = convert_leaves(leaves)
  except ValueError as error:
    raise ValueError(f'{source}: {error}') from error
  macros = {'SCAN_LAYERS': to == 'scanned'}
  if result.own_biases or to == 'unscanned':
    macros['RELPOS_BIAS_PER_LAYER'] = bool(result.own_biases)
  beside = _beside(source.parent, target.parent, macros)
  _write(target.parent, step, result.leaves, source / checkpoints.DATASET)
  for path, content in beside.items():
    path.write_bytes(content)
  says = f'its {model_directory.CONFIG_FILE} sets'
  if target.parent / model_directory.CONFIG_FILE not in beside:
    says = 'set'
  console.say(f'{target}: {to}; {says} SCAN_LAYERS = {to == "scanned"}')
  if result.own_biases:
    console.say(
      f'position biases differ from layer to layer; {says} '
      'RELPOS_BIAS_PER_LAYER = True'
    )
  if result.refactored:
    console.say(
      f"Adafactor's second moments of {result.refactored} parameters are "
      'factored on one side only: averaged, or estimated of their averages'
    )
  return target


def _beside(
  source: epath.Path, target: epath.Path, macros: dict[str, bool]
) -> dict[epath.Path, bytes]:
  """Returns what a model directory has beside its checkpoints, to be written.

  Args:
    source: the model directory.
    target: the folder that it is to be written to.
    macros: values that its configuration is to give.

  Raises:
    FileExistsError: `target` holds other contents.
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
        f"{path} exists and is another run's; choose another --output"
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
    raise ValueError(f'{source} holds no {checkpoints.STATE!r} of Orbax')
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
  """Refuses arrays of a size that such files cannot be meant to have.

  Nothing else here knows how large they ought to be.
  """
  claimed = sum(math.prod(a.shape) * np.dtype(a.dtype).itemsize for a in arrays)
  stored = sum((state / name).stat().length for name in checksums.names(state))
  if claimed > _MOST_COMPRESSED * stored + _SMALL:
    raise damaged_checkpoints.DamagedError(
      f'{source} claims arrays of {claimed:,} bytes in files of {stored:,}',
      'restore it from a copy',
    )


class _State:
  """A state as `CheckpointManager.save` takes it."""

  def __init__(self, step: int, leaves: dict[str, np.ndarray]):
    self.step = step
    self._leaves = leaves

  def state_dict(self) -> dict[str, Any]:
    return traverse_util.unflatten_dict(self._leaves, sep='/')


class _SavedPosition:
  """A position in the data that is copied, and not read."""

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
