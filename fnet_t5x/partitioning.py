"""Meshes of several slices, and logical axis rules in addition to T5X's.

A slice is what a TPU's own links connect (ICI); slices are connected by the
network of the data center (DCN), which is slower. T5X's partitioner takes the
shape of the mesh within a slice and across slices, each for the axes
('replica', 'data', 'model'): here 'replica' is the slices, so that only data
parallelism crosses them.

T5X's rules cover every axis of our parameters. The length of the encoder's
activations has its own name, `encoder_length`, so that it can be sharded while
the decoder's length, which is 1 in decoding, is not. T5X's rules do not shard
it.
"""

import math
from collections.abc import Sequence

import jax

from fnet_t5x.compat import partitioning

LogicalAxisRules = Sequence[tuple[str, str | None]]


def sequence_sharded_logical_axis_rules(
  parameter_partitioning_dims: int = 1,
  additional_rules: LogicalAxisRules | None = None,
) -> LogicalAxisRules:
  """Returns T5X's rules, with the encoder's length sharded over 'model'.

  The encoder's activations are then sharded as [batch over data, length over
  model, embed]: each device holds some of the tokens of its rows, also in
  feed-forward blocks. To mix tokens, devices exchange tokens for features
  (Fourier) or for heads (attention). Parameters stay sharded over 'model'.

  Args:
    parameter_partitioning_dims: of T5X's rules; 2 also shards parameters over
      'data'.
    additional_rules: rules to append.
  """
  standard = partitioning.standard_logical_axis_rules(
    activation_partitioning_dims=1,
    parameter_partitioning_dims=parameter_partitioning_dims,
    additional_rules=additional_rules,
  )
  # First, since the first rule that applies to an array gets the mesh axis.
  return [('encoder_length', 'model'), *standard]


def dcn_mesh_shape(num_slices: int | None = 1) -> tuple[int, int, int] | None:
  """Returns `PjitPartitioner.dcn_mesh_shape` for a number of slices.

  Args:
    num_slices: number of slices; None and 1 are one.

  Returns:
    (num_slices, 1, 1); None for one slice, the partitioner's default.

  Raises:
    ValueError: it is not a positive integer.
  """
  if not _several(num_slices):
    return None
  return (num_slices, 1, 1)


def ici_mesh_shape(
  num_slices: int | None = 1,
  num_partitions: int | None = None,
  model_parallel_submesh: Sequence[int] | None = None,
  num_devices: int | None = None,
) -> tuple[int, int, int] | None:
  """Returns `PjitPartitioner.ici_mesh_shape`: that of one slice.

  Args:
    num_slices: number of slices; None and 1 are one.
    num_partitions: devices per replica of the model.
    model_parallel_submesh: the same as a tile of devices, which takes
      precedence; only its product matters here.
    num_devices: devices in all slices; None for those that JAX has.

  Returns:
    (1, data, model); None for one slice, the partitioner's default.

  Raises:
    ValueError: the devices do not divide into the slices, or those of a slice
      into replicas of the model.
  """
  if not _several(num_slices):
    return None
  if num_devices is None:
    num_devices = jax.device_count()
  if num_devices % num_slices:
    raise ValueError(
      f'NUM_SLICES={num_slices} does not divide the {num_devices} devices: set '
      'it to the number of slices that the run has'
    )
  model, name = num_partitions or 1, f'NUM_PARTITIONS={num_partitions}'
  if model_parallel_submesh:
    model = math.prod(model_parallel_submesh)
    name = f'MODEL_PARALLEL_SUBMESH={tuple(model_parallel_submesh)}'
  per_slice = num_devices // num_slices
  if per_slice % model:
    raise ValueError(
      f'{name} does not divide the {per_slice} devices of a slice, which the '
      'model must not leave: set it to a divisor'
    )
  return (1, per_slice // model, model)


def _several(num_slices):
  if num_slices is not None and (
    not isinstance(num_slices, int) or num_slices < 1
  ):
    raise ValueError(f'NUM_SLICES={num_slices!r}: give a positive integer')
  return (num_slices or 1) > 1
