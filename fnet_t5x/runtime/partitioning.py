"""Partitioning over the ('data', 'model') mesh of this process's devices.

Devices in several slices have the mesh ('replica', 'data', 'model') of T5X:
'replica' is the part of data parallelism that crosses the network between them.

Networks name their axes (`batch`, `embed`, `heads`, ...); rules map each name
to a mesh axis, or to None for replicated. `PjitPartitioner` maps a train state
to mesh axes and compiles functions whose arguments are sharded accordingly.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from flax import traverse_util
from flax.linen import partitioning as flax_partitioning
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnet_t5x.runtime import train_state as train_state_lib

HardwareMesh = tuple[int, ...]
LogicalAxisRules = Sequence[tuple[str, str | tuple[str, ...] | None]]

MESH_AXES = ('data', 'model')
MULTI_SLICE_MESH_AXES = ('replica', 'data', 'model')


class AxisNames(tuple):
  """Names of an array's logical axes; None for an axis without a name.

  `AxisNames('embed', 'mlp')`. Unlike a plain tuple, it is a leaf of a pytree.
  """

  __slots__ = ()

  def __new__(cls, *names: str | None) -> AxisNames:
    return super().__new__(cls, names)

  def __getnewargs__(self) -> tuple[str | None, ...]:
    return tuple(self)

  def __repr__(self) -> str:
    return f'AxisNames{tuple(self)!r}'


def default_mesh(
  num_partitions: int | None,
  model_parallel_submesh: HardwareMesh | None = None,
  backend: str | None = None,
  ici_mesh_shape: HardwareMesh | None = None,
  dcn_mesh_shape: HardwareMesh | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """Returns the mesh of all devices, with 'model' as the inner axis.

  Args:
    num_partitions: size of the 'model' axis.
    model_parallel_submesh: T5X's tile of devices that hold one replica of the
      model, such as (1, 2, 1, 1); only its product matters here. Takes
      precedence over `num_partitions`.
    backend: platform of the devices; None for JAX's default.
    ici_mesh_shape: sizes of MULTI_SLICE_MESH_AXES within a slice. With
      `dcn_mesh_shape`, it replaces the two sizes above.
    dcn_mesh_shape: numbers of slices along MULTI_SLICE_MESH_AXES.
    devices: the devices to use instead, such as those of an absent pod in
      ahead-of-time compilation.

  Raises:
    ValueError: the number of devices is not divisible by the size of 'model',
      the shapes do not describe the devices, or there are several processes.
  """
  if jax.process_count() > 1:
    raise ValueError(
      f'the embedded runtime drives one process, not {jax.process_count()}: '
      'use T5X for several hosts'
    )
  if devices is None:
    devices = jax.devices(backend)
  if ici_mesh_shape is not None and dcn_mesh_shape is not None:
    return _multi_slice_mesh(
      tuple(ici_mesh_shape), tuple(dcn_mesh_shape), devices
    )
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


def slice_of_devices(
  devices: Sequence[jax.Device], num_slices: int
) -> dict[jax.Device, int]:
  """Returns the slice of each device, from 0.

  TPUs know their slice. Of devices that do not, such as simulated ones,
  consecutive ones are taken for a slice.

  Args:
    devices: all devices.
    num_slices: number of slices.

  Raises:
    ValueError: the devices are not that many slices of equal size.
  """
  count = len(devices)
  if count % num_slices:
    raise ValueError(
      f'{count} devices do not divide into {num_slices} slices: change '
      'NUM_SLICES'
    )
  indices = [
    getattr(device, 'slice_index', position * num_slices // count)
    for position, device in enumerate(devices)
  ]
  names = sorted(set(indices))
  if any(indices.count(name) != count // num_slices for name in names):
    raise ValueError(
      f'the {count} {devices[0].platform} devices are in {len(names)} slices, '
      f'not in {num_slices} of equal size: change NUM_SLICES'
    )
  return {
    device: names.index(index)
    for device, index in zip(devices, indices, strict=True)
  }


def _multi_slice_mesh(ici, dcn, devices) -> Mesh:
  axes = MULTI_SLICE_MESH_AXES
  for name, shape in (('ici_mesh_shape', ici), ('dcn_mesh_shape', dcn)):
    if len(shape) != len(axes) or min(shape) < 1:
      raise ValueError(
        f'PjitPartitioner.{name}={shape}: give the sizes of the axes {axes}'
      )
  if dcn[-1] != 1:
    raise ValueError(
      f"PjitPartitioner.dcn_mesh_shape={dcn} spreads 'model' over slices, "
      f'whose network is slow: use {(math.prod(dcn), 1, 1)}'
    )
  slices = math.prod(dcn)
  slice_of = slice_of_devices(devices, slices)
  if math.prod(ici) * slices != len(devices):
    raise ValueError(
      f'PjitPartitioner.ici_mesh_shape={ici} has {math.prod(ici)} devices, and '
      f'each of the {slices} slices has {len(devices) // slices}: set '
      'NUM_SLICES instead'
    )
  blocks = np.empty(dcn, dtype=object)
  for number, position in enumerate(np.ndindex(*dcn)):
    blocks[position] = mesh_utils.create_device_mesh(
      ici,
      [device for device in devices if slice_of[device] == number],
      allow_split_physical_axes=True,
    )
  return Mesh(np.block(blocks.tolist()), axes)


def standard_logical_axis_rules(
  activation_partitioning_dims: int = 1,
  parameter_partitioning_dims: int = 1,
  additional_rules: LogicalAxisRules | None = None,
) -> LogicalAxisRules:
  """Returns T5X's rules from logical axes to mesh axes, by priority.

  Args:
    activation_partitioning_dims: 2 shards 'embed' over 'model' where no other
      axis of the array uses it, which shards activations too.
    parameter_partitioning_dims: 2 shards the 'embed' axis of parameters over
      'data' (like ZeRO-3).
    additional_rules: appended, hence of lower priority than the standard ones.

  Raises:
    ValueError: a number of dimensions is neither 1 nor 2.
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


TrainState = train_state_lib.TrainState
PyTree = Any


@dataclasses.dataclass
class DataLayout:
  """Share of the data that this process reads: one shard, the whole batch."""

  batch_size: int
  shard_id: int
  num_shards: int
  is_first_host_in_replica_set: bool


class PjittedFnWithContext:
  """Jitted function that runs in the context of the mesh and the axis rules.

  Flax's `with_sharding_constraint` does nothing outside `jax.set_mesh`, so the
  context is needed whenever the function is traced.
  """

  def __init__(
    self,
    pjitted_fn: Callable,
    partition_mesh: Mesh,
    logical_axis_rules: LogicalAxisRules = (),
  ):
    self._jitted = pjitted_fn
    self._mesh = partition_mesh
    self._rules = logical_axis_rules

  def __call__(self, *args):
    with jax.set_mesh(self._mesh), flax_partitioning.axis_rules(self._rules):
      return self._jitted(*args)

  def lower(self, *args) -> jax.stages.Lowered:
    with jax.set_mesh(self._mesh), flax_partitioning.axis_rules(self._rules):
      return self._jitted.lower(*args)


class BasePartitioner(abc.ABC):
  """Layout of states and batches on the devices, and functions over it.

  T5X's interface, for one process. A subclass says how a state is sharded
  (`get_mesh_axes`) and how a function is compiled (`partition`, `compile`); it
  may have another mesh.
  """

  # Mesh axis, or axes, over which batches are sharded.
  _data_axis: str | tuple[str, ...] | None = 'data'

  def __init__(
    self,
    num_partitions: int | None = None,
    model_parallel_submesh: HardwareMesh | None = None,
    params_on_devices: bool = True,
    backend: str | None = None,
    ici_mesh_shape: HardwareMesh | None = None,
    dcn_mesh_shape: HardwareMesh | None = None,
  ):
    """Sets the mesh shape.

    Args:
      num_partitions: number of devices per replica of the model.
      model_parallel_submesh: the same as a tile, see `default_mesh`; takes
        precedence over `num_partitions`.
      params_on_devices: whether parameters stay on devices between steps.
      backend: platform of the devices.
      ici_mesh_shape: sizes within a slice, see `default_mesh`.
      dcn_mesh_shape: numbers of slices, likewise.

    Raises:
      ValueError: neither size is given.
    """
    if not num_partitions and not model_parallel_submesh:
      raise ValueError(
        f'{type(self).__name__} needs num_partitions or model_parallel_submesh'
      )
    if num_partitions and model_parallel_submesh:
      logging.warning(
        '%s: model_parallel_submesh=%s takes precedence over num_partitions=%s',
        type(self).__name__,
        model_parallel_submesh,
        num_partitions,
      )
    self._num_partitions = num_partitions
    self._model_parallel_submesh = model_parallel_submesh
    self._backend = backend
    self._ici_mesh_shape = ici_mesh_shape
    self._dcn_mesh_shape = dcn_mesh_shape
    self.params_on_devices = params_on_devices

  @functools.cached_property
  def mesh(self) -> Mesh:
    return self.mesh_of()

  def mesh_of(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of these devices, or of all; see `default_mesh`."""
    return default_mesh(
      self._num_partitions,
      self._model_parallel_submesh,
      self._backend,
      self._ici_mesh_shape,
      self._dcn_mesh_shape,
      devices,
    )

  @property
  def num_slices(self) -> int:
    """Number of slices that the devices are in."""
    if self._ici_mesh_shape is None or self._dcn_mesh_shape is None:
      return 1
    return math.prod(self._dcn_mesh_shape)

  @property
  def data_partition_spec(self) -> PartitionSpec:
    """Sharding of batches: their first dimension over 'data'."""
    return PartitionSpec(self._data_axis)

  @property
  def data_mesh_size(self) -> int:
    """Number of shards of a batch."""
    return self._extent(self._data_axis)

  def get_data_layout(self, batch_size: int | None = None) -> DataLayout:
    """Returns the layout of batches of `batch_size` (None: the smallest).

    Raises:
      ValueError: `batch_size` is not divisible by the size of the 'data' axis.
    """
    if batch_size is None:
      batch_size = self.data_mesh_size
    if batch_size < 1 or batch_size % self.data_mesh_size:
      raise ValueError(
        f'Batch size ({batch_size}) must be divisible by corresponding data '
        f'mesh size ({self.data_mesh_size}): change BATCH_SIZE or '
        'PjitPartitioner.num_partitions'
      )
    return DataLayout(
      batch_size=batch_size,
      shard_id=0,
      num_shards=1,
      is_first_host_in_replica_set=True,
    )

  def get_logical_axes(self, train_state: TrainState) -> TrainState:
    """Returns `train_state` with its arrays replaced by axis names or None."""
    return train_state.as_logical_axes()

  @abc.abstractmethod
  def get_mesh_axes(self, train_state: TrainState) -> TrainState:
    """Returns `train_state` with a `PartitionSpec` or None for each array."""

  def get_shardings(self, axis_resources: PyTree) -> PyTree:
    """Returns `axis_resources` with specs and None replaced by shardings.

    Like None, a sharding may be a prefix that stands for a whole subtree.
    """

    def sharding(spec):
      if isinstance(spec, jax.sharding.Sharding):
        return spec
      return NamedSharding(self.mesh, spec or PartitionSpec())

    return jax.tree.map(sharding, axis_resources, is_leaf=lambda x: x is None)

  @abc.abstractmethod
  def partition(
    self,
    fn: Callable,
    in_axis_resources: PyTree,
    out_axis_resources: PyTree,
    static_argnums: int | Sequence[int] = (),
    donate_argnums: int | Sequence[int] = (),
  ) -> Callable:
    """Returns `fn` compiled over the mesh.

    Args:
      fn: a function of positional arguments.
      in_axis_resources: one entry per non-static argument: a `PartitionSpec`,
        None (replicated), or a tree of them that is a prefix of the argument's.
      out_axis_resources: the same for the outputs of `fn`.
      static_argnums: arguments that are compile-time constants.
      donate_argnums: arguments whose memory the outputs may reuse.
    """

  @abc.abstractmethod
  def compile(self, partitioned_fn: Callable, *args) -> jax.stages.Compiled:
    """Returns `partitioned_fn` compiled for arguments shaped like `args`."""

  def move_params_to_devices(
    self, train_state: TrainState, train_state_axes: TrainState
  ) -> TrainState:
    """Returns `train_state` sharded according to `train_state_axes`."""
    return jax.device_put(train_state, self.get_shardings(train_state_axes))

  def _extent(self, mesh_axes: str | tuple[str, ...] | None) -> int:
    return math.prod(self.mesh.shape[axis] for axis in _as_tuple(mesh_axes))


class PjitPartitioner(BasePartitioner):
  """Maps logical axes to the mesh by rules, and compiles with `jax.jit`."""

  def __init__(
    self,
    num_partitions: int | None = None,
    model_parallel_submesh: HardwareMesh | None = None,
    params_on_devices: bool = True,
    backend: str | None = None,
    ici_mesh_shape: HardwareMesh | None = None,
    dcn_mesh_shape: HardwareMesh | None = None,
    logical_axis_rules: LogicalAxisRules | None = None,
  ):
    """Sets the mesh shape and the rules.

    Args:
      num_partitions: as in `BasePartitioner`, like the following.
      model_parallel_submesh: a tile of devices.
      params_on_devices: whether parameters stay on devices between steps.
      backend: platform of the devices.
      ici_mesh_shape: sizes within a slice.
      dcn_mesh_shape: numbers of slices. With both, the batch is sharded over
        'replica' and 'data'.
      logical_axis_rules: None for `standard_logical_axis_rules()`.

    Raises:
      ValueError: neither size is given, or a rule names an unknown mesh axis.
    """
    super().__init__(
      num_partitions,
      model_parallel_submesh,
      params_on_devices,
      backend,
      ici_mesh_shape,
      dcn_mesh_shape,
    )
    if logical_axis_rules is None:
      logical_axis_rules = standard_logical_axis_rules()
    axes = MESH_AXES
    if ici_mesh_shape is not None and dcn_mesh_shape is not None:
      axes = MULTI_SLICE_MESH_AXES
      logical_axis_rules = [
        (logical, ('replica', 'data') if logical == 'batch' else mesh_axes)
        for logical, mesh_axes in logical_axis_rules
      ]
    self._rules = tuple(tuple(rule) for rule in logical_axis_rules)
    for logical, mesh_axes in self._rules:
      for mesh_axis in _as_tuple(mesh_axes):
        if mesh_axis not in axes:
          raise ValueError(
            f'logical_axis_rules map {logical!r} to {mesh_axis!r}: the mesh '
            f'has the axes {axes}'
          )
    (self._data_axis,) = flax_partitioning.logical_to_mesh_axes(
      ('batch',), self._rules
    )

  @property
  def logical_axis_rules(self) -> LogicalAxisRules:
    return self._rules

  def get_mesh_axes(self, train_state: TrainState) -> TrainState:
    """Returns `train_state` with a `PartitionSpec` or None for each array.

    Only shapes are needed, so `train_state` may come from `jax.eval_shape`.

    Raises:
      ValueError: a dimension is not divisible by the size of its mesh axis.
    """
    logical_axes = self.get_logical_axes(train_state)
    arrays = _flatten(train_state.state_dict())
    mesh_axes = {}
    for name, axes in _flatten(logical_axes.state_dict()).items():
      if axes is None or axes is traverse_util.empty_node:
        mesh_axes[name] = axes
        continue
      try:
        spec = flax_partitioning.logical_to_mesh_axes(axes, self._rules)
      except ValueError as e:
        raise ValueError(f'cannot map the axes of {name!r}: {e}') from e
      self._check_divides(name, arrays[name], axes, spec)
      mesh_axes[name] = spec
    return logical_axes.restore_state(
      traverse_util.unflatten_dict(mesh_axes, sep='/')
    )

  def partition(
    self,
    fn: Callable,
    in_axis_resources: PyTree,
    out_axis_resources: PyTree,
    static_argnums: int | Sequence[int] = (),
    donate_argnums: int | Sequence[int] = (),
  ) -> PjittedFnWithContext:
    return PjittedFnWithContext(
      jax.jit(
        fn,
        in_shardings=self.get_shardings(in_axis_resources),
        out_shardings=self.get_shardings(out_axis_resources),
        static_argnums=static_argnums,
        donate_argnums=donate_argnums,
      ),
      self.mesh,
      self._rules,
    )

  def compile(
    self, partitioned_fn: PjittedFnWithContext, *args
  ) -> jax.stages.Compiled:
    return partitioned_fn.lower(*args).compile()

  def _check_divides(self, name, array, axes, spec):
    for axis, mesh_axis, size in zip(axes, spec, np.shape(array), strict=True):
      pieces = self._extent(mesh_axis)
      if size % pieces:
        raise ValueError(
          f'{name!r}: its axis {axis!r} of size {size} does not divide over '
          f'the {pieces} devices of mesh axis {mesh_axis!r}: choose another '
          f'num_partitions, or map {axis!r} to None in logical_axis_rules'
        )


def _as_tuple(mesh_axes: str | Sequence[str] | None) -> tuple[str, ...]:
  if mesh_axes is None:
    return ()
  return (mesh_axes,) if isinstance(mesh_axes, str) else tuple(mesh_axes)


def _flatten(tree: PyTree) -> dict[str, Any]:
  return traverse_util.flatten_dict(tree, keep_empty_nodes=True, sep='/')
