"""A run's plan: its figures, gathered; `report` prints them."""

import dataclasses
import math
from typing import Any

from flax import traverse_util

from fnet_t5x.planning import flops, parameters, programs, remedies, roofline
from fnet_t5x.planning.gin_run import Run
from fnet_t5x.planning.topology import Topology


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a run will take.

  Attributes:
    name: of its model.
    topology: what it is planned for.
    mesh: size by mesh axis.
    batch_size: rows a training step.
    tokens: positions a training step.
    decode_batch_size: rows that are written for at once.
    total_steps: of training; None if the gin files do not say.
    parameters: by part.
    training_flops: of a training step, by formula, over all devices.
    state: bytes on one device.
    train: the training step.
    prefill: encoding and the cache's prefill; None if not asked for.
    step: one decoding step; None likewise.
    cache_bytes: of the decoding cache on one device.
    memory_allowed: bytes of one device; None for plain CPU devices.
    remedies: what would make the training step fit, if it does not.
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
  memory_allowed: float | None
  remedies: tuple[remedies.Remedy, ...]

  @property
  def devices(self) -> int:
    """Devices of the mesh."""
    return math.prod(self.mesh.values())

  @property
  def activations(self) -> int:
    """Bytes of the training step beside state and gradients."""
    return max(self.train.temporaries - self.state.gradients, 0)

  @property
  def fits(self) -> bool:
    """Whether a device can hold every program."""
    return all(
      program.compiled
      and (self.memory_allowed is None or program.memory <= self.memory_allowed)
      for program in (self.train, self.prefill, self.step)
      if program
    )

  def times(self, program: programs.Program) -> roofline.Times | None:
    """Seconds of a program; None without a chip or without a program."""
    if self.topology.chip is None or not program.compiled:
      return None
    return roofline.times(program, self.topology.chip)

  def share(self, seconds: float) -> float:
    """Share of peak where a training step takes so long."""
    return roofline.share_of_peak(
      self.training_flops, seconds, self.devices, self.topology.chip
    )

  def days(self, seconds: float) -> float | None:
    """Days of training where a step takes so long."""
    if not self.total_steps:
      return None
    return self.total_steps * seconds / roofline.DAY

  def record(self) -> dict[str, Any]:
    """The plan as plain JSON values."""
    record = {
      'name': self.name,
      'topology': self.topology.text,
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
          'memory_allowed',
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
          'share_of_peak': self.share(seconds),
          'tokens_a_day': self.tokens / seconds * roofline.DAY,
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
  """Compiles a run's programs for a topology, and reads off what they take.

  Args:
    name: of the model, for the table.
    run: as `gin_run.configured` yields it.
    topology: where JAX is set up for it.
    decoding: whether to compile prefill and decoding too.
    decode_batch_size: rows that are written for; None for the run's batch.

  Raises:
    ValueError: the run does not fit the mesh.
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
    beside = max(train.temporaries - state.gradients, 0)
    found = remedies.remedies(run, state, beside, allowed)
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
    memory_allowed=allowed,
    remedies=tuple(found),
  )
