"""Reader of T5X's pre-Orbax checkpoints, such as the public T5 1.1 ones.

Layout: `<directory>/checkpoint` is a msgpack of `{'version', 'optimizer':
{'target', 'state'}}`. Each leaf is an array, or the description of a zarr array
in the folder `<directory>/<names joined by dots>`.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore
from etils import epath
from flax import serialization, traverse_util

from fnet_t5x.runtime.damaged_checkpoints import DamagedError

_FILE = 'checkpoint'
_REMEDY = 'fetch the checkpoint again'


def is_legacy(directory: str | os.PathLike) -> bool:
  """Whether a checkpoint directory has this layout."""
  return (epath.Path(directory) / _FILE).is_file()


class LegacyCheckpoint:
  """A checkpoint in this layout, for reading.

  Attributes:
    leaves: arrays by name (`target/encoder/...`), or a `jax.ShapeDtypeStruct`
      for those still on disk.
  """

  def __init__(self, directory: str | os.PathLike):
    """Reads the msgpack file.

    Raises:
      DamagedError: the file is of a version before 2, not a T5X checkpoint, or
        truncated.
    """
    self._directory = epath.Path(directory)
    try:
      content = serialization.msgpack_restore(
        (self._directory / _FILE).read_bytes()
      )
      version = content['version']
      flat = traverse_util.flatten_dict(
        content['optimizer'], is_leaf=lambda _, leaf: _is_description(leaf)
      )
      self.leaves = {
        '/'.join(path): _shape(leaf) if _is_description(leaf) else leaf
        for path, leaf in flat.items()
      }
    # Raised by msgpack, or by content of another form.
    except (ValueError, LookupError, TypeError, AttributeError) as error:
      raise self._invalid_error() from error
    if not isinstance(version, int) or version < 2:
      raise self._invalid_error()

  def _invalid_error(self) -> DamagedError:
    return DamagedError(
      f'{self._directory}: its file {_FILE!r} is not a T5X checkpoint of '
      'version 2 or 3, or is truncated',
      _REMEDY,
    )

  def read(
    self, name: str, dtype: Any, sharding: jax.sharding.Sharding
  ) -> jax.Array:
    """Returns one leaf on the mesh.

    Raises:
      DamagedError: its array is incomplete, or its shape or dtype differs from
        the description, as after an interrupted download.
    """
    leaf = self.leaves[name]
    if isinstance(leaf, jax.ShapeDtypeStruct):
      leaf = self._read_array(name, leaf)
    return jax.device_put(np.asarray(leaf).astype(dtype), sharding)

  def _read_array(
    self, name: str, described: jax.ShapeDtypeStruct
  ) -> np.ndarray:
    shape = described.shape
    folder = os.fspath(self._directory / name.replace('/', '.'))
    url = folder
    if '://' not in folder:
      url = f'file://{os.path.abspath(folder)}'
    try:
      array = tensorstore.open({'driver': 'zarr', 'kvstore': url}).result()
    except ValueError as error:
      raise DamagedError(
        f'{folder}: missing or damaged ({str(error).splitlines()[0]})', _REMEDY
      ) from error
    if array.shape != shape:
      raise DamagedError(
        f'{folder}: an array of shape {array.shape}, where the checkpoint '
        f'says {shape}',
        _REMEDY,
      )
    if array.dtype.name != described.dtype.name:
      raise DamagedError(
        f'{folder}: an array of {array.dtype.name}, where the checkpoint says '
        f'{described.dtype.name}',
        _REMEDY,
      )
    chunk = array.chunk_layout.read_chunk.shape
    counts = [-(-n // c) for n, c in zip(shape, chunk, strict=True)]
    count = math.prod(counts)
    keys = array.kvstore.list().result()
    stored = sum(
      _is_chunk(key.decode('utf-8', 'replace'), counts) for key in keys
    )
    # Without a fill value every chunk is stored; a missing one would be read as
    # zeros.
    if array.fill_value is None and stored < count:
      raise DamagedError(
        f'{folder}: {count - stored} of {count} chunks are missing', _REMEDY
      )
    try:
      return array.read().result()
    except ValueError as error:
      raise DamagedError(
        f'{folder}: damaged ({str(error).splitlines()[0]})', _REMEDY
      ) from error


def _is_chunk(key: str, counts: Sequence[int]) -> bool:
  """Whether a key names a chunk of an array with `counts` chunks per axis."""
  if not counts:
    return key == '0'
  indices = re.split(r'[./]', key)
  return len(indices) == len(counts) and all(
    index.isdecimal() and int(index) < count
    for index, count in zip(indices, counts, strict=True)
  )


def _is_description(leaf: Any) -> bool:
  return isinstance(leaf, Mapping) and 'kvstore' in leaf


def _shape(description: Mapping[str, Any]) -> jax.ShapeDtypeStruct:
  """Returns shape and dtype from TensorStore's description of a zarr array."""
  shape = description['metadata']['shape']
  if isinstance(shape, Mapping):  # msgpack keeps a list as {'0': ..., ...}
    shape = [shape[str(i)] for i in range(len(shape))]
  dtype = jnp.dtype(description.get('dtype', 'float32'))
  return jax.ShapeDtypeStruct(tuple(int(n) for n in shape), dtype)
