"""T5X's checkpoints of before Orbax: its public T5 1.1 checkpoints.

Layout: `<directory>/checkpoint` is a msgpack of `{'version', 'optimizer':
{'target', 'state'}}`. A leaf there is an array, or the description of a zarr
array that is the folder `<directory>/<names joined by dots>`.
"""

import math
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import tensorstore
from etils import epath
from flax import serialization, traverse_util

_FILE = 'checkpoint'


def is_legacy(directory: str | os.PathLike) -> bool:
  """Whether a checkpoint's directory has this layout."""
  return (epath.Path(directory) / _FILE).is_file()


class LegacyCheckpoint:
  """One such checkpoint, for reading.

  Attributes:
    leaves: an array, or a `jax.ShapeDtypeStruct` for one still on disk, by
      name (`target/encoder/...`).
  """

  def __init__(self, directory: str | os.PathLike):
    """Reads what there is.

    Raises:
      ValueError: the file is of a version before 2, or no T5X checkpoint.
    """
    self._directory = epath.Path(directory)
    content = serialization.msgpack_restore(
      (self._directory / _FILE).read_bytes()
    )
    if not isinstance(content, Mapping) or content.get('version', 0) < 2:
      raise ValueError(
        f'{self._directory}: its file {_FILE!r} is no T5X checkpoint of '
        'version 2 or 3'
      )
    flat = traverse_util.flatten_dict(
      content['optimizer'], is_leaf=lambda _, leaf: _is_description(leaf)
    )
    self.leaves = {
      '/'.join(path): _shape(leaf) if _is_description(leaf) else leaf
      for path, leaf in flat.items()
    }

  def read(
    self, name: str, dtype: Any, sharding: jax.sharding.Sharding
  ) -> jax.Array:
    """Returns one leaf on the mesh.

    Raises:
      ValueError: its array is not all there, or of another shape than the
        checkpoint says, as after a broken download.
    """
    leaf = self.leaves[name]
    if isinstance(leaf, jax.ShapeDtypeStruct):
      leaf = self._read_array(name, leaf.shape)
    return jax.device_put(np.asarray(leaf).astype(dtype), sharding)

  def _read_array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
    folder = os.fspath(self._directory / name.replace('/', '.'))
    url = folder
    if '://' not in folder:
      url = f'file://{os.path.abspath(folder)}'
    remedy = 'fetch the checkpoint again'
    try:
      array = tensorstore.open({'driver': 'zarr', 'kvstore': url}).result()
    except ValueError as error:
      raise ValueError(
        f'{folder}: missing or damaged ({str(error).splitlines()[0]}); {remedy}'
      ) from error
    if array.shape != shape:
      raise ValueError(
        f'{folder}: an array of shape {array.shape}, where the checkpoint '
        f'says {shape}; {remedy}'
      )
    chunk = array.chunk_layout.read_chunk.shape
    count = math.prod(-(-n // c) for n, c in zip(shape, chunk, strict=True))
    keys = array.kvstore.list().result()
    stored = sum(not key.startswith(b'.') for key in keys)
    # Without a fill value every chunk is stored; one that is not there would
    # be read as zeros.
    if array.fill_value is None and stored < count:
      raise ValueError(
        f'{folder}: {count - stored} of {count} chunks are missing; {remedy}'
      )
    try:
      return array.read().result()
    except ValueError as error:
      raise ValueError(
        f'{folder}: damaged ({str(error).splitlines()[0]}); {remedy}'
      ) from error


def _is_description(leaf: Any) -> bool:
  return isinstance(leaf, Mapping) and 'kvstore' in leaf


def _shape(description: Mapping[str, Any]) -> jax.ShapeDtypeStruct:
  """The shape that a TensorStore description of a zarr array tells."""
  shape = description['metadata']['shape']
  if isinstance(shape, Mapping):  # msgpack keeps a list as {'0': ..., ...}
    shape = [shape[str(i)] for i in range(len(shape))]
  return jax.ShapeDtypeStruct(tuple(int(n) for n in shape), np.float32)
