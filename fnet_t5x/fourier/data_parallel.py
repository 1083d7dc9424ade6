"""Keeps batched work on the device that holds the batch.

On CPU and GPU XLA does not split an FFT along its batch: in a program whose
batch is sharded, it gathers the whole batch onto every device first
(jax#15680). Under `shard_map` each device sees its own rows only.
"""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
from jax.interpreters import pxla
from jax.sharding import AxisType, PartitionSpec

# Mesh axes that T5X's logical axis rules map 'batch' to, outermost first.
BATCH_MESH_AXES = ('replica', 'data')


def context_mesh():
  """Returns the mesh of `jax.set_mesh` or `with mesh:`, or None."""
  mesh = jax.sharding.get_abstract_mesh()
  if not mesh.empty:
    automatic = all(kind == AxisType.Auto for kind in mesh.axis_types)
    # Manual axes: the caller is inside a shard_map and rows are local already.
    return mesh if automatic else None
  with warnings.catch_warnings():
    # T5X enters its mesh with `with mesh:`, which JAX offers no newer way to
    # read.
    warnings.simplefilter('ignore', DeprecationWarning)
    mesh = pxla.thread_resources.env.physical_mesh
  return None if mesh.empty else mesh


def shard_map_batch(function: Callable, *operands):
  """Returns function(*operands), each device working on its own rows.

  Args:
    function: from pytrees of arrays to another; axis 0 of every array is the
      batch, and rows do not depend on one another.
    *operands: the pytrees. One with a method `specs(rows)` says so of each of
      its arrays, and may hold what all rows share.

  Under a mesh with a data axis, in the context of `with mesh:` or
  `jax.set_mesh`, this is `shard_map` over that axis; without one, or where
  the batch does not divide by it, a plain call.
  """
  mesh = context_mesh()
  if mesh is None:
    return function(*operands)
  axes = _batch_axes(mesh, jax.tree.leaves(operands)[0].shape[0])
  if not axes:
    return function(*operands)
  rows = PartitionSpec(axes)
  return jax.shard_map(
    function,
    mesh=mesh,
    in_specs=tuple(_specs(operand, rows) for operand in operands),
    out_specs=rows,
    check_vma=False,
  )(*operands)


def is_sharded(axis: str | None, *sizes: int) -> bool:
  """Whether the mesh in force has devices along `axis` that divide `sizes`."""
  mesh = context_mesh() if axis else None
  if mesh is None or axis not in mesh.axis_names or mesh.shape[axis] == 1:
    return False
  return not any(size % mesh.shape[axis] for size in sizes)


def map_shards(
  function: Callable, x: jax.Array, shared: Any, axis: str, dimension: int
) -> jax.Array:
  """Returns function(x, shared, axis), each device with its piece of x.

  Args:
    function: from pieces of rows to others; may exchange along `axis`.
    x: [batch, ...].
    shared: a pytree, as `shard_map_batch` takes it. A device gets the whole of
      its rows.
    axis: the mesh axis that rows are spread over.
    dimension: the dimension of x, and of the result, that is.
  """
  mesh = context_mesh()
  rows = _batch_axes(mesh, x.shape[0]) or None
  pieces = [rows, *[None] * (x.ndim - 1)]
  pieces[dimension] = axis
  pieces = PartitionSpec(*pieces)
  return jax.shard_map(
    functools.partial(function, axis=axis),
    mesh=mesh,
    in_specs=(pieces, _specs(shared, PartitionSpec(rows))),
    out_specs=pieces,
    check_vma=False,
  )(x, shared)


def _specs(operand, rows):
  return operand.specs(rows) if hasattr(operand, 'specs') else rows


def _batch_axes(mesh, batch):
  """The mesh axes that a batch is spread over; none where it cannot be."""
  axes = tuple(a for a in BATCH_MESH_AXES if a in mesh.axis_names)
  shards = math.prod(mesh.shape[a] for a in axes)
  return () if shards == 1 or batch % shards else axes
