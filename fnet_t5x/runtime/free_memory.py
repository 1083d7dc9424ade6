"""The memory of a compiled training step, beside what is free."""

import contextlib
import dataclasses
import math
import pathlib
import re
import resource
import sys
from collections.abc import Iterator
from typing import Any

import jax

# XLA's CPU library for products takes memory that the compiler does not count
# (measured: planning/measured_memory.py).
_UNCOUNTED_ON_CPU = 1.1
_UNLIMITED = 1 << 60


@dataclasses.dataclass(frozen=True)
class StepMemory:
  """Bytes of a training step beside the train state, and bytes that are free.

  Attributes:
    needed: what the step takes while it runs, on one device; on CPU, where the
      devices share the memory, on all of them.
    gradients: bytes of all gradients, a part of `needed` that no smaller batch
      makes less.
    free: what there is for it.
  """

  needed: int
  gradients: int
  free: int

  @property
  def fits(self) -> bool:
    """Whether the step will find what it needs."""
    return self.needed <= self.free

  def line(self) -> str:
    """Returns both for a person."""
    needed, free = size_text(self.needed), size_text(self.free)
    return (
      f'the training step takes {needed} beside the train state; {free} are '
      'free'
    )

  def warning(self, batch_size: int, num_microbatches: int, parts: int) -> str:
    """Returns what to change, where the step does not fit.

    Args:
      batch_size: of a step.
      num_microbatches: into how many parts it is cut.
      parts: how many devices share a batch, each with rows of its own.
    """
    remedies = []
    rows = batch_size // parts
    activations = max(0, self.needed - self.gradients)
    for factor in range(2, rows // num_microbatches + 1):
      # The sum of gradients is held beside those of a part.
      held = self.gradients * (2 if num_microbatches == 1 else 1)
      whole = rows % (num_microbatches * factor) == 0
      if whole and held + activations / factor <= self.free:
        remedies.append(f'NUM_MICROBATCHES={num_microbatches * factor}')
        break
    smallest = parts * num_microbatches
    size = batch_size // 2 // smallest * smallest
    while size >= smallest:
      taken = self.gradients + activations * size / batch_size
      if taken <= self.free:
        remedies.append(f'BATCH_SIZE={size}')
        break
      size = size // 2 // smallest * smallest
    advice = 'No smaller BATCH_SIZE would do; take a smaller model'
    if remedies:
      advice = 'Try ' + ' or '.join(f'--gin.{each}' for each in remedies)
    return (
      'warning: it does not fit; the run may be killed without a word.\n'
      f'  {advice}'
    )


def step_memory(
  step: jax.stages.Compiled, parameters: Any
) -> StepMemory | None:
  """Returns what a compiled training step needs, by the compiler's account.

  Args:
    step: its first argument, the train state, is donated.
    parameters: of the train state, on their devices.

  Returns:
    None where the compiler or the device does not say.
  """
  analysis = step.memory_analysis()
  device = jax.local_devices()[0]
  free = free_bytes(device)
  if analysis is None or free is None:
    return None
  # The arguments are there already; what is aliased, the train state, takes
  # their place.
  needed = (
    analysis.temp_size_in_bytes
    + analysis.output_size_in_bytes
    - analysis.alias_size_in_bytes
  )
  # Gradients are float32, and laid out as the parameters.
  gradients = 4 * sum(
    math.prod(x.sharding.shard_shape(x.shape))
    for x in jax.tree.leaves(parameters)
  )
  if device.platform == 'cpu':
    count = jax.local_device_count()
    needed = int(needed * count * _UNCOUNTED_ON_CPU)
    gradients *= count
  return StepMemory(max(0, needed), gradients, free)


def free_bytes(device: jax.Device) -> int | None:
  """Returns what a device can still give to this process; None if unknown.

  On an accelerator that of its own memory. On a CPU the least of what the
  machine, the control groups of the process (a container's limit) and its
  resource limits (`ulimit`) leave.
  """
  if device.platform != 'cpu':
    stats = device.memory_stats() or {}
    if 'bytes_limit' not in stats:
      return None
    return max(0, stats['bytes_limit'] - stats.get('bytes_in_use', 0))
  return min(host_limits(), default=None)


def host_limits(root: pathlib.Path = pathlib.Path('/')) -> list[int]:
  """Returns the bytes that each limit of the host leaves; Linux only.

  Args:
    root: of the file system.
  """
  return [
    max(0, left)
    for left in (
      *_machine(root / 'proc/meminfo'),
      *_control_groups(root),
      *_resource_limits(root / 'proc/self'),
    )
  ]


def _machine(meminfo: pathlib.Path) -> Iterator[int]:
  yield from _kilobytes(meminfo, 'MemAvailable')


def _control_groups(root: pathlib.Path) -> Iterator[int]:
  """Of the process's group and all groups above it, version 2 and 1."""
  groups = root / 'sys/fs/cgroup'
  for line in _read(root / 'proc/self/cgroup').splitlines():
    _, controllers, path = line.split(':', 2)
    if controllers == '':
      names = ('memory.max', 'memory.current', 'inactive_file')
      top = groups
    elif 'memory' in controllers.split(','):
      names = (
        'memory.limit_in_bytes',
        'memory.usage_in_bytes',
        'total_inactive_file',
      )
      top = groups / 'memory'
    else:
      continue
    # In a container the path may be the host's: the top is then the group.
    folder = pathlib.PurePosixPath(path.lstrip('/'))
    for group in (folder, *folder.parents):
      yield from _control_group(top / group, *names)


def _control_group(folder, limit, usage, cached) -> Iterator[int]:
  most, used = _read(folder / limit).strip(), _read(folder / usage).strip()
  if not most.isdigit() or not used.isdigit() or int(most) >= _UNLIMITED:
    return
  # Files that are read are counted, and given up when memory is needed.
  files = re.search(rf'^{cached} (\d+)$', _read(folder / 'memory.stat'), re.M)
  yield int(most) - int(used) + (int(files[1]) if files else 0)


def _resource_limits(process: pathlib.Path) -> Iterator[int]:
  limits = _read(process / 'limits')
  for name, field in (
    ('Max address space', 'VmSize'),
    ('Max data size', 'VmData'),
  ):
    most = re.search(rf'^{name} +(\d+) ', limits, re.M)
    if most:
      for used in _kilobytes(process / 'status', field):
        yield int(most[1]) - used


def _kilobytes(path: pathlib.Path, field: str) -> Iterator[int]:
  found = re.search(rf'^{field}:\s+(\d+) kB', _read(path), re.M)
  if found:
    yield int(found[1]) * 1024


def _read(path: pathlib.Path) -> str:
  try:
    return path.read_text()
  except OSError:
    return ''


@contextlib.contextmanager
def exhaustion_named() -> Iterator[None]:
  """Turns the block's lack of memory into an error that names remedies.

  Raises:
    ValueError: a device, or the machine, has no memory left.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    _, exhausted, message = str(error).partition('RESOURCE_EXHAUSTED: ')
    if not exhausted:
      raise
    raise ValueError(
      f'{message.splitlines()[0].rstrip(".")}: raise NUM_MICROBATCHES, lower '
      'BATCH_SIZE, or take a smaller model'
    ) from error


def peak_bytes() -> int:
  """Returns the most memory that this process ever had, in bytes."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else peak * 1024


def size_text(size: float) -> str:
  """Returns a number of bytes for a person."""
  return f'{size / 1e9:.1f} GB' if size >= 1e9 else f'{size / 1e6:.0f} MB'
