"""The mesh of this process's devices, and what T5X shards over it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import Mesh

HardwareMesh = tuple[int, ...]
LogicalAxisRules = Sequence[tuple[str, str | None]]

MESH_AXES = ('data', 'model')


def default_mesh(
  num_partitions: int | None,
  model_parallel_submesh: HardwareMesh | None = None,
  backend: str | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """Returns the mesh of all devices, 'model' being the inner axis.

  Args:
    num_partitions: size of the 'model' axis.
    model_parallel_submesh: T5X's tile of devices that hold one replica of the
      model, such as (1, 2, 1, 1); here only its product counts, and it goes
      before `num_partitions`.
    backend: platform to take the devices from; None for JAX's choice.
    devices: those to take instead, such as a pod's that is not there.

  Raises:
    ValueError: the devices do not divide by the size of 'model', or belong to
      several processes.
  """
  if jax.process_count() > 1:
    raise ValueError(
      f'the embedded runtime drives one process, not {jax.process_count()}: '
      'use T5X for several hosts'
    )
  if devices is None:
    devices = jax.devices(backend)
  if model_parallel_submesh:
    name, value = 'model_parallel_submesh', tuple(model_parallel_submesh)
    model_size = math.prod(model_parallel_submesh)
  else:
    name, value = 'num_partitions', num_partitions
    model_size = num_partitions
  if not model_size or model_size < 1 or len(devices) % model_size:
    raise ValueError(
      f'{name}={value} does not divide the {len(devices)} '
      f'{devices[0].platform} devices: set PjitPartitioner.{name} to a divisor'
    )
  shape = (len(devices) // model_size, model_size)
  return Mesh(
    mesh_utils.create_device_mesh(
      shape, devices, allow_split_physical_axes=True
    ),
    MESH_AXES,
  )


def standard_logical_axis_rules(
  activation_partitioning_dims: int = 1,
  parameter_partitioning_dims: int = 1,
  additional_rules: LogicalAxisRules | None = None,
) -> LogicalAxisRules:
  """Returns T5X's rules from logical axes to mesh axes, by priority.

  Args:
    activation_partitioning_dims: 2 shards 'embed' over 'model' where no other
      axis of the array took it: activations too are then split.
    parameter_partitioning_dims: 2 shards the 'embed' of parameters over 'data'
      (as ZeRO-3 does).
    additional_rules: appended, so of lower priority than the standard ones.

  Raises:
    ValueError: a number of dimensions other than 1 and 2.
  """
  dims = (activation_partitioning_dims, parameter_partitioning_dims)
  embed_rules = {
    (1, 1): [('embed', None)],
    (2, 1): [('embed', 'model')],
    (1, 2): [('embed', 'data')],
    (2, 2): [('embed', 'model'), ('embed', 'data')],
  }
  if dims not in embed_rules:
    raise ValueError(
      f'activation_partitioning_dims={dims[0]} and '
      f'parameter_partitioning_dims={dims[1]}: each must be 1 or 2'
    )
  replicated = (
    'kv',
    'relpos_buckets',
    'abspos_buckets',
    'length',
    'layers',
    'stack',
    'mlp_activations',
  )
  return [
    ('batch', 'data'),
    ('vocab', 'model'),
    ('mlp', 'model'),
    ('heads', 'model'),
    ('joined_kv', 'model'),
    *embed_rules[dims],
    *((axis, None) for axis in replicated),
    *(additional_rules or ()),
  ]
