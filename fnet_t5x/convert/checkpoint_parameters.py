"""Parameters of a checkpoint, to be converted to another library's layout."""

import pathlib
from typing import NamedTuple

import numpy as np
from etils import epath

from fnet_t5x.convert import checkpoint_leaves
from fnet_t5x.runtime import checkpoints, model_directory

_TARGET = 'target/'


class Parameters(NamedTuple):
  """Parameters, and where they are from.

  Attributes:
    path: `.../checkpoint_<step>`.
    arrays: parameters by name, in float32.
    dropped: names of the other arrays, by reason.
    pieces: path of the vocabulary beside the checkpoint, if any.
  """

  path: pathlib.Path
  arrays: dict[str, np.ndarray]
  dropped: dict[str, list[str]]
  pieces: pathlib.Path | None


def read(source: pathlib.Path) -> Parameters:
  """Reads a checkpoint.

  Args:
    source: `.../checkpoint_<step>`, or a folder of them (the last is taken).

  Raises:
    FileNotFoundError: there is no such checkpoint.
    DamagedError, ValueError: see `checkpoint_leaves.read`.
  """
  directory, step = checkpoints.locate(
    checkpoints.RestoreCheckpointConfig(path=str(source), mode='latest')
  )
  path = epath.Path(directory) / f'{checkpoints.PREFIX}_{step}'
  leaves = checkpoint_leaves.read(path, lambda: checkpoints.steps(directory))
  arrays = {
    name.removeprefix(_TARGET): np.asarray(value, np.float32)
    for name, value in leaves.items()
    if name.startswith(_TARGET)
  }
  state = [name for name in leaves if not name.startswith(_TARGET)]
  beside = pathlib.Path(directory) / model_directory.VOCABULARY_FILE
  return Parameters(
    pathlib.Path(path),
    arrays,
    {"the optimizer's state": state},
    beside if beside.exists() else None,
  )
