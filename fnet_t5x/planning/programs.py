"""Ahead-of-time compilation of a run's programs, from abstract shapes."""

import dataclasses
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from fnet_t5x.backend import target_backend
from fnet_t5x.planning import collectives, hlo
from fnet_t5x.planning.gin_run import Run
from fnet_t5x.planning.topology import Topology
from fnet_t5x.planning.topology import devices as devices_of
from fnet_t5x.runtime import partitioning, train_state

# Messages of the TPU compiler for a program that does not fit, and whether the
# figure includes the program's arguments.
_DOES_NOT_FIT = (
  (
    re.compile(
      r'required for HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds available '
      r'HBM \(([\d.]+)([KMGT]?)\)'
    ),
    False,
  ),
  (
    re.compile(
      r'Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm', re.IGNORECASE
    ),
    True,
  ),
)
_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


@dataclasses.dataclass(frozen=True)
class Program:
  """The compiler's figures for a program, per device.

  Attributes:
    name: 'train step', 'prefill' or 'decoding step'.
    tokens: tokens computed per run, over all devices.
    arguments: bytes of arguments, and of other arrays held during the run.
    results: bytes of results that do not alias arguments.
    temporaries: peak bytes of temporaries.
    code: bytes of the program itself.
    cost: `hlo.cost`, with loop bodies counted once per trip.
    cost_once: the same, with loop bodies counted once.
    compiler_flops: `cost_analysis()['flops']`, loop bodies counted once.
    compiler_bytes: `cost_analysis()['bytes accessed']`, likewise.
    optimal_seconds: of `cost_analysis()`, loop bodies counted once; negative if
      the TPU compiler has no estimate for an instruction (it adds -1 for each),
      None from other compilers.
    collectives: as `collectives.collectives` returns them.
    compile_seconds: wall time of tracing and compiling.
    hlo_bytes: length of the program's HLO text.
    device_memory: bytes available per device if the program does not fit; None
      if it fits.
  """

  name: str
  tokens: int
  arguments: int = 0
  results: int = 0
  temporaries: int = 0
  code: int = 0
  cost: hlo.Cost = dataclasses.field(default_factory=hlo.Cost)
  cost_once: hlo.Cost = dataclasses.field(default_factory=hlo.Cost)
  compiler_flops: float = 0.0
  compiler_bytes: float = 0.0
  optimal_seconds: float | None = None
  collectives: tuple[Mapping[str, Any], ...] = ()
  compile_seconds: float = 0.0
  hlo_bytes: int = 0
  device_memory: float | None = None

  @property
  def memory(self) -> int:
    """Peak bytes of a run."""
    return self.arguments + self.results + self.temporaries + self.code

  @property
  def compiled(self) -> bool:
    """Whether it compiled; False if the compiler found that it does not fit."""
    return self.device_memory is None


@dataclasses.dataclass(frozen=True)
class StateBytes:
  """Bytes of a train state per device.

  Attributes:
    parameters: of the parameters.
    optimizer: of the optimizer state.
    gradients: of all gradients, which are sharded like the parameters.
  """

  parameters: int
  optimizer: int
  gradients: int

  @property
  def held(self) -> int:
    """Bytes held between steps."""
    return self.parameters + self.optimizer


def place(run: Run, topology: Topology) -> None:
  """Sets the run's mesh to the devices of the topology.

  Raises:
    ValueError: a size is not divisible by its mesh axis.
  """
  partitioner = run.partitioner
  if partitioner.num_slices != topology.num_slices:
    raise ValueError(
      f'NUM_SLICES={partitioner.num_slices} and --num_slices='
      f'{topology.num_slices}: give --num_slices={partitioner.num_slices}, '
      'which sets NUM_SLICES, or include gin/partitioning/data.gin'
    )
  partitioner.mesh = partitioner.mesh_of(devices_of(topology))
  partitioner.get_data_layout(run.batch_size)
  check_divides(run)


def check_divides(run: Run) -> None:
  """Raises ValueError if a size is not divisible by its mesh axis."""
  config, partitioner = run.config, run.partitioner
  parts = run.num_microbatches
  if run.batch_size % parts:
    raise ValueError(
      f'BATCH_SIZE={run.batch_size} does not divide into NUM_MICROBATCHES='
      f'{parts}: change one of them'
    )
  if run.batch_size // parts % partitioner.data_mesh_size:
    raise ValueError(
      f'a microbatch of {run.batch_size // parts} examples does not divide '
      f'over the {partitioner.data_mesh_size} parts of the data axis: lower '
      'NUM_MICROBATCHES or raise BATCH_SIZE'
    )
  sizes = {
    'heads': ('NUM_HEADS', config.num_heads),
    'mlp': ('MLP_DIM', config.mlp_dim),
    'vocab': ('VOCAB_SIZE', config.vocab_size),
    'embed': ('EMBED_DIM', config.emb_dim),
  }
  for logical, mesh_axis in partitioner.logical_axis_rules:
    if logical not in sizes or mesh_axis is None:
      continue
    name, size = sizes[logical]
    axes = (mesh_axis,) if isinstance(mesh_axis, str) else mesh_axis
    pieces = math.prod(partitioner.mesh.shape[axis] for axis in axes)
    if size % pieces:
      raise ValueError(
        f'{name}={size} does not divide over the {pieces} devices of mesh axis '
        f'{mesh_axis!r}: change NUM_PARTITIONS or {name}'
      )


def state_bytes(run: Run) -> StateBytes:
  """Returns the bytes of the train state per device, from its sharding."""
  initializer = run.initializer()
  shapes = _flat(initializer.global_train_state_shape)
  axes = _flat(initializer.train_state_axes)
  totals = {'target': 0, 'state': 0}
  gradients = 0
  for name, leaf in shapes.items():
    sharding = run.partitioner.get_shardings(axes.get(name))
    if sharding is None:
      sharding = run.partitioner.get_shardings(partitioning.PartitionSpec())
    numbers = math.prod(sharding.shard_shape(leaf.shape))
    kind = name.split('/')[0]
    totals[kind] = totals.get(kind, 0) + numbers * leaf.dtype.itemsize
    if kind == 'target':
      gradients += numbers * leaf.dtype.itemsize
  return StateBytes(totals['target'], totals['state'], gradients)


def _flat(state):
  flat = traverse_util.flatten_dict(state.state_dict(), sep='/')
  return {name: leaf for name, leaf in flat.items() if leaf is not None}


def slices_of(run: Run) -> tuple[int, ...] | None:
  """Returns the slice of each device in the mesh's order; None if only one."""
  devices = list(run.partitioner.mesh.devices.flat)
  count = run.partitioner.num_slices
  if count == 1:
    return None
  ordered = sorted(devices, key=lambda device: device.id)
  slice_of = partitioning.slice_of_devices(ordered, count)
  return tuple(slice_of[device] for device in devices)


def train_step(run: Run, backend: str) -> Program:
  """Compiles the training step of the embedded runtime.

  Args:
    run: the run, after `place`.
    backend: JAX's name of the target platform.
  """
  with target_backend(backend):
    initializer = run.initializer()
    step = run.trainer_cls(
      model=run.model,
      train_state=initializer.global_train_state_shape,
      partitioner=run.partitioner,
      eval_names=(),
      summary_dir=None,
      train_state_axes=initializer.train_state_axes,
      rng=jax.random.PRNGKey(0),
    )
    return compile_and_analyse(
      'train step',
      run.tokens,
      state_bytes(run).held,
      lambda: step.compile_train(run.batch),
      slices_of(run),
    )


def prefill_and_step(
  run: Run, backend: str, batch_size: int
) -> tuple[Program, Program, int]:
  """Compiles generation: encoding with cache prefill, and one decoding step.

  One sequence per example and no prompt, as in `predict_batch` without beams.

  Args:
    run: the run, after `place`.
    backend: JAX's name of the target platform.
    batch_size: decoding batch size.

  Returns:
    Both programs, and the bytes of the cache per device.
  """
  model, partitioner = run.model, run.partitioner
  partitioner.get_data_layout(batch_size)
  inputs = run.lengths['encoder_input_tokens']
  targets = run.lengths['decoder_target_tokens']

  def tokens(length):
    return jax.ShapeDtypeStruct((batch_size, length), jnp.int32)

  def prefill(params, encoder_tokens, decoder_tokens):
    encoded = model.encode(params, encoder_tokens)
    cache, _ = model.start_decoding(
      params, encoded, decoder_tokens, prompted=False
    )
    return encoded, cache

  def step(params, encoded, token, cache):
    logits, cache = model.decode_step(params, encoded, cache, token, targets)
    return jnp.argmax(logits, axis=-1), cache

  with target_backend(backend):
    state = jax.eval_shape(
      lambda: train_state.InferenceState.create(
        model.get_initial_variables(
          jax.random.PRNGKey(0),
          {name: x.shape for name, x in run.batch.items()},
          {name: x.dtype for name, x in run.batch.items()},
        )
      )
    )
    axes = partitioner.get_mesh_axes(state)
    layout = partitioner.get_shardings(axes.params)
    rows = partitioner.get_shardings(partitioner.data_partition_spec)

    def jitted(function, given, returned=None, donated=()):
      keywords = {} if returned is None else {'out_shardings': returned}
      return partitioning.PjittedFnWithContext(
        jax.jit(
          function, in_shardings=given, donate_argnums=donated, **keywords
        ),
        partitioner.mesh,
        partitioner.logical_axis_rules,
      )

    made = {}

    def compile_prefill():
      lowered = jitted(prefill, (layout, rows, rows)).lower(
        state.params, tokens(inputs), tokens(targets)
      )
      compiled = lowered.compile()
      made['shapes'] = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), lowered.out_info
      )
      made['shardings'] = compiled.output_shardings
      return compiled

    held, slices = _bytes(state.params, layout), slices_of(run)
    filling = compile_and_analyse(
      'prefill', batch_size * inputs, held, compile_prefill, slices
    )
    if not filling.compiled:
      return filling, dataclasses.replace(filling, name='decoding step'), 0
    encoded, cache = made['shapes']
    at_encoded, at_cache = made['shardings']
    cache_bytes = _bytes(cache, at_cache)
    stepping = compile_and_analyse(
      'decoding step',
      batch_size,
      held + cache_bytes + _bytes(encoded, at_encoded),
      lambda: (
        jitted(
          step,
          (layout, at_encoded, rows, at_cache),
          (rows, at_cache),
          donated=(3,),
        )
        .lower(state.params, encoded, tokens(1), cache)
        .compile()
      ),
      slices,
    )
  return filling, stepping, cache_bytes


def _bytes(shapes, shardings):
  """Returns the bytes per device of a tree of shapes with these shardings."""
  return sum(
    math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf, sharding in zip(
      jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True
    )
  )


def compile_and_analyse(
  name: str,
  tokens: int,
  held: int,
  compile_program: Callable[[], jax.stages.Compiled],
  slices: Sequence[int] | None = None,
) -> Program:
  """Compiles a program, and returns the compiler's figures.

  Args:
    name: the program's name.
    tokens: tokens computed per run, over all devices.
    held: bytes of arrays that a device holds while it runs, its arguments
      included.
    compile_program: lowers and compiles it.
    slices: the slice of each device, if there are several.
  """
  start = time.perf_counter()
  try:
    compiled = compile_program()
  except jax.errors.JaxRuntimeError as error:
    sizes = sizes_of_error(str(error))
    if not sizes:
      raise
    needed, allowed, arguments_counted = sizes
    return Program(
      name,
      tokens,
      arguments=held,
      temporaries=int(needed - held if arguments_counted else needed),
      device_memory=allowed,
      compile_seconds=time.perf_counter() - start,
    )
  seconds = time.perf_counter() - start
  memory = compiled.memory_analysis()
  cost = compiled.cost_analysis() or {}
  text = compiled.as_text()
  return Program(
    name,
    tokens,
    # Unused arguments are dropped, such as the encoder's parameters in a
    # decoding step; the device holds them nevertheless.
    arguments=max(memory.argument_size_in_bytes, held),
    results=memory.output_size_in_bytes - memory.alias_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    code=memory.generated_code_size_in_bytes,
    cost=hlo.cost(text),
    cost_once=hlo.cost(text, count_loops=False),
    compiler_flops=cost.get('flops', 0.0),
    compiler_bytes=cost.get('bytes accessed', 0.0),
    optimal_seconds=cost.get('optimal_seconds'),
    collectives=tuple(collectives.collectives(text, slices)),
    compile_seconds=seconds,
    hlo_bytes=len(text),
  )


def sizes_of_error(message: str) -> tuple[float, float, bool] | None:
  """Returns bytes needed and available, and whether arguments are included."""
  for pattern, arguments_counted in _DOES_NOT_FIT:
    if found := pattern.search(message):
      needed, allowed = (
        float(found[i]) * _UNITS[found[i + 1].upper()] for i in (1, 3)
      )
      return needed, allowed, arguments_counted
  return None
