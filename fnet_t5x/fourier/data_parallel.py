"""Keeps batched work on the device that holds the batch.

On CPU and GPU XLA does not split an FFT along its batch: in a program whose
batch is sharded, it gathers the whole batch onto every device first
(jax#15680). Under `shard_map` each device sees its own rows only.
"""

import math
import warnings
from collections.abc import Callable

import jax
from jax.interpreters import pxla
from jax.sharding import AxisType, PartitionSpec

# Mesh axes that T5X's logical axis rules map 'batch' to, outermost first.
BATCH_MESH_AXES = ('replica', 'data')


def _context_mesh():
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


def map_rows(function: Callable, *operands):
  """Returns function(*operands), each device working on its own rows.

  Args:
    function: from pytrees of arrays to another; axis 0 of every array is the
      batch, and rows do not depend on one another.
    *operands: the pytrees.

  Under a mesh with a data axis, in the context of `with mesh:` or
  `jax.set_mesh`, this is `shard_map` over that axis; without one, or where
  the batch does not divide by it, a plain call.
  """
  mesh = _context_mesh()
  if mesh is None:
    return function(*operands)
  axes = tuple(a for a in BATCH_MESH_AXES if a in mesh.axis_names)
  shards = math.prod(mesh.shape[a] for a in axes)
  batch = jax.tree.leaves(operands)[0].shape[0]
  if shards == 1 or batch % shards:
    return function(*operands)
  rows = PartitionSpec(axes)
  return jax.shard_map(
    function, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False
  )(*operands)
