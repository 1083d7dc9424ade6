"""Data parallelism by `shard_map`, for operations XLA does not partition.

On CPU and GPU XLA does not partition an FFT along its batch: if the batch is
sharded, it first gathers the whole batch onto every device (jax#15680). Under
`shard_map` each device sees only its own rows.
"""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
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
    # Manual axes: inside a shard_map, where rows are already local.
    return mesh if automatic else None
  with warnings.catch_warnings():
    # T5X enters its mesh with `with mesh:`; JAX has no newer API to read it.
    warnings.simplefilter('ignore', DeprecationWarning)
    mesh = pxla.thread_resources.env.physical_mesh
  return None if mesh.empty else mesh


def shard_map_batch(function: Callable, *operands):
  """Returns function(*operands), computed by each device on its own rows.

  Under a mesh with a data axis, from `with mesh:` or `jax.set_mesh`, this is
  `shard_map` over that axis; without one, or if the batch is not divisible by
  its size, a plain call.

  Args:
    function: maps pytrees of arrays to a pytree; axis 0 of every array is the
      batch, and rows are independent.
    *operands: the pytrees. One that has a method `specs(rows)` returns from it
      the spec of each of its arrays, and may hold arrays shared by all rows.
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
  """Whether the current mesh shards `axis`, and its size divides `sizes`."""
  mesh = context_mesh() if axis else None
  if mesh is None or axis not in mesh.axis_names or mesh.shape[axis] == 1:
    return False
  return not any(size % mesh.shape[axis] for size in sizes)


def map_shards(
  function: Callable, x: jax.Array, shared: Any, axis: str, dimension: int
) -> jax.Array:
  """Returns function(x, shared, axis), computed by each device on its shard.

  Args:
    function: maps shards of rows to shards; may communicate along `axis`.
    x: [batch, ...].
    shared: a pytree, as for `shard_map_batch`, not sharded along `axis`.
    axis: the mesh axis that rows are sharded over.
    dimension: the sharded dimension of x and of the result.
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


def map_rows_and_heads(
  function: Callable,
  xs: Sequence[jax.Array],
  filters: Sequence[jax.Array],
  axis: str | None,
) -> jax.Array:
  """Returns function(xs, filters), for each device's own rows and heads.

  Args:
    function: maps lists of activations [batch, length, heads, kv] and of
      filters [heads, lags] to activations; rows and heads are independent.
    xs: the activations, at least one.
    filters: the filters, whole rows of lags.
    axis: the mesh axis that heads are sharded over, if any.
  """
  mesh = context_mesh()
  batch, _, heads, _ = xs[0].shape
  rows = _batch_axes(mesh, batch) if mesh is not None else ()
  axis = axis if is_sharded(axis, heads) else None
  if not rows and axis is None:
    return function(xs, filters)
  pieces = PartitionSpec(rows or None, None, axis, None)
  return jax.shard_map(
    function,
    mesh=mesh,
    in_specs=(pieces, PartitionSpec(axis, None)),
    out_specs=pieces,
    check_vma=False,
  )(list(xs), list(filters))


def _specs(operand, rows):
  return operand.specs(rows) if hasattr(operand, 'specs') else rows


def _batch_axes(mesh, batch):
  """Returns the mesh axes to shard a batch over; () if it is not divisible."""
  axes = tuple(a for a in BATCH_MESH_AXES if a in mesh.axis_names)
  shards = math.prod(mesh.shape[a] for a in axes)
  return () if shards == 1 or batch % shards else axes
