"""Plan of a run: all figures, which `report` prints."""

import dataclasses
import math
from typing import Any

from flax import traverse_util

from fnet_t5x.costs import flops
from fnet_t5x.planning import parameters, programs, remedies, roofline
from fnet_t5x.planning.gin_run import Run
from fnet_t5x.planning.topology import Topology


@dataclasses.dataclass(frozen=True)
class Plan:
  """The expected cost of a run.

  Attributes:
    name: name of the model.
    topology: devices of the run.
    mesh: size by mesh axis.
    batch_size: rows per training step.
    tokens: tokens per training step, padding included.
    decode_batch_size: rows per decoding step.
    total_steps: training steps; None if the gin files do not set them.
    parameters: number of parameters by part.
    training_flops: FLOPs per training step by formula, over all devices.
    state: bytes of the train state per device.
    train: the training step.
    prefill: encoding and cache prefill; None if not planned.
    step: one decoding step; None if not planned.
    cache_bytes: bytes of the decoding cache per device.
    hbm_available: bytes per device for programs; None for CPU devices.
    remedies: changes that would make the training step fit, if it does not.
  """

  name: str
  topology: Topology
  mesh: dict[str, int]
  batch_size: int
  tokens: int
  decode_batch_size: int
  total_steps: int | None
  parameters: parameters.Parameters
  training_flops: float
  state: programs.StateBytes
  train: programs.Program
  prefill: programs.Program | None
  step: programs.Program | None
  cache_bytes: int
  hbm_available: float | None
  remedies: tuple[remedies.Remedy, ...]

  @property
  def devices(self) -> int:
    """Returns the number of devices of the mesh."""
    return math.prod(self.mesh.values())

  @property
  def activations(self) -> int:
    """Returns the bytes of the training step beyond state and gradients."""
    return max(self.train.temporaries - self.state.gradients, 0)

  @property
  def fits(self) -> bool:
    """Returns whether every program fits a device."""
    return all(
      program.compiled
      and (self.hbm_available is None or program.memory <= self.hbm_available)
      for program in (self.train, self.prefill, self.step)
      if program
    )

  def times(self, program: programs.Program) -> roofline.Times | None:
    """Returns the times of a program; None without a chip or if it misfits."""
    if self.topology.chip is None or not program.compiled:
      return None
    return roofline.times(program, self.topology.chip)

  def mfu(self, seconds: float) -> float:
    """Returns the MFU of a training step that takes `seconds`."""
    return roofline.mfu(
      self.training_flops, seconds, self.devices, self.topology.chip
    )

  def days(self, seconds: float) -> float | None:
    """Returns the days of training if a step takes `seconds`."""
    if not self.total_steps:
      return None
    return self.total_steps * seconds / roofline.DAY

  def record(self) -> dict[str, Any]:
    """Returns the plan as JSON values."""
    record = {
      'name': self.name,
      'topology': self.topology.text,
      'num_slices': self.topology.num_slices,
      'devices': self.devices,
      **{
        key: getattr(self, key)
        for key in (
          'mesh',
          'batch_size',
          'tokens',
          'decode_batch_size',
          'total_steps',
          'training_flops',
          'cache_bytes',
          'hbm_available',
          'activations',
          'fits',
        )
      },
      'parameters': {
        **dataclasses.asdict(self.parameters),
        'total': self.parameters.total,
      },
      'state': dataclasses.asdict(self.state),
      'remedies': [dataclasses.asdict(each) for each in self.remedies],
    }
    for key in ('train', 'prefill', 'step'):
      program = getattr(self, key)
      if program is None:
        continue
      record[key] = {
        **dataclasses.asdict(program),
        'memory': program.memory,
        'compiled': program.compiled,
      }
      times = self.times(program)
      if times:
        record[key]['seconds'] = {
          **dataclasses.asdict(times),
          'roofline': times.roofline,
        }
    times = self.times(self.train)
    if times:
      record['estimates'] = {
        key: {
          'mfu': self.mfu(seconds),
          'tokens_per_day': self.tokens / seconds * roofline.DAY,
          'days': self.days(seconds),
        }
        for key, seconds in (
          ('roofline', times.roofline),
          ('compiler', times.compiler),
        )
        if seconds
      }
    return record


def make_plan(
  name: str,
  run: Run,
  topology: Topology,
  *,
  decoding: bool = True,
  decode_batch_size: int | None = None,
) -> Plan:
  """Compiles the programs of a run for a topology, and analyzes them.

  Args:
    name: name of the model, for the table.
    run: the run, as `gin_run.configured` yields it.
    topology: the devices; JAX is set up for them.
    decoding: whether to compile prefill and decoding too.
    decode_batch_size: rows per decoding step; None for the run's batch size.

  Raises:
    ValueError: a size is not divisible by its mesh axis.
  """
  programs.place(run, topology)
  state = programs.state_bytes(run)
  shapes = traverse_util.flatten_dict(
    run.initializer().global_train_state_shape.state_dict()['target'], sep='/'
  )
  train = programs.train_step(run, topology.backend)
  allowed = topology.chip.available if topology.chip else None
  if train.device_memory:
    allowed = train.device_memory
  rows = decode_batch_size or run.batch_size
  prefill = step = None
  cache_bytes = 0
  if decoding:
    prefill, step, cache_bytes = programs.prefill_and_step(
      run, topology.backend, rows
    )
  found = []
  if allowed and train.memory > allowed:
    activations = max(train.temporaries - state.gradients, 0)
    found = remedies.remedies(run, state, activations, allowed)
  return Plan(
    name=name,
    topology=topology,
    mesh=dict(run.partitioner.mesh.shape),
    batch_size=run.batch_size,
    tokens=run.tokens,
    decode_batch_size=rows,
    total_steps=run.total_steps,
    parameters=parameters.count(shapes),
    training_flops=flops.batch_flops(run.config, run.batch, topology.backend),
    state=state,
    train=train,
    prefill=prefill,
    step=step,
    cache_bytes=cache_bytes,
    hbm_available=allowed,
    remedies=tuple(found),
  )
