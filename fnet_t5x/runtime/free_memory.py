"""Memory needed by a compiled training step, and memory available."""

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

# XLA's matrix products on CPU allocate memory that the compiler does not count
# (measured: planning/measured_memory.py).
_UNCOUNTED_ON_CPU = 1.1
_UNLIMITED = 1 << 60


@dataclasses.dataclass(frozen=True)
class StepMemory:
  """Memory of a training step besides the train state, in bytes.

  Attributes:
    needed: peak memory of the step, per device; on CPU, where the devices share
      the memory, of all devices.
    gradients: memory of the gradients, the part of `needed` that does not
      depend on the batch size.
    free: memory available.
  """

  needed: int
  gradients: int
  free: int

  @property
  def fits(self) -> bool:
    """Whether the memory needed is available."""
    return self.needed <= self.free

  def line(self) -> str:
    """Returns needed and free memory as a line of text."""
    needed, free = size_text(self.needed), size_text(self.free)
    return (
      f'the training step needs {needed} besides the train state; {free} free'
    )

  def warning(self, batch_size: int, num_microbatches: int, parts: int) -> str:
    """Returns a warning with remedies, for a step that does not fit.

    Args:
      batch_size: examples per step.
      num_microbatches: microbatches per step.
      parts: data-parallel shards of a batch.
    """
    remedies = []
    rows = batch_size // parts
    activations = max(0, self.needed - self.gradients)
    for factor in range(2, rows // num_microbatches + 1):
      # The accumulated gradients are additional to a microbatch's.
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
    advice = 'No smaller BATCH_SIZE fits; use a smaller model'
    if remedies:
      advice = 'Try ' + ' or '.join(f'--gin.{each}' for each in remedies)
    return (
      'warning: it does not fit; the run may be killed without a message.\n'
      f'  {advice}'
    )


def step_memory(
  step: jax.stages.Compiled, parameters: Any
) -> StepMemory | None:
  """Returns the memory of a compiled training step, as the compiler counts it.

  Args:
    step: the compiled step, whose first argument, the train state, is donated.
    parameters: the parameters, on their devices.

  Returns:
    The memory; None if the compiler or the device does not report it.
  """
  analysis = step.memory_analysis()
  device = jax.local_devices()[0]
  free = free_bytes(device)
  if analysis is None or free is None:
    return None
  # The arguments are already allocated, and the new train state, which is
  # aliased, replaces the old one.
  needed = (
    analysis.temp_size_in_bytes
    + analysis.output_size_in_bytes
    - analysis.alias_size_in_bytes
  )
  # Gradients are float32, and sharded like the parameters.
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
  """Returns the memory available on a device, in bytes; None if unknown.

  On a CPU, it is the minimum of what the machine, the process's control groups
  (a container's limit) and its resource limits (`ulimit`) leave.
  """
  if device.platform != 'cpu':
    stats = device.memory_stats() or {}
    if 'bytes_limit' not in stats:
      return None
    return max(0, stats['bytes_limit'] - stats.get('bytes_in_use', 0))
  return min(host_limits(), default=None)


def host_limits(root: pathlib.Path = pathlib.Path('/')) -> list[int]:
  """Returns the bytes left by each limit of the host; Linux only.

  Args:
    root: root of the file system.
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
  """Yields bytes left by the process's cgroup and its ancestors (v1, v2)."""
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
    # In a container, the path may be the host's, and the root is the group.
    folder = pathlib.PurePosixPath(path.lstrip('/'))
    for group in (folder, *folder.parents):
      yield from _control_group(top / group, *names)


def _control_group(folder, limit, usage, cached) -> Iterator[int]:
  most, used = _read(folder / limit).strip(), _read(folder / usage).strip()
  if not most.isdigit() or not used.isdigit() or int(most) >= _UNLIMITED:
    return
  # The page cache counts as used, but is reclaimable.
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
  """Converts a block's out-of-memory errors to an error with remedies.

  Raises:
    ValueError: a device or the machine is out of memory.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    _, exhausted, message = str(error).partition('RESOURCE_EXHAUSTED: ')
    if not exhausted:
      raise
    raise ValueError(
      f'{message.splitlines()[0].rstrip(".")}: raise NUM_MICROBATCHES, lower '
      'BATCH_SIZE, or use a smaller model'
    ) from error


def peak_bytes() -> int:
  """Returns the peak memory of this process, in bytes."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else peak * 1024


def size_text(size: float) -> str:
  """Returns a number of bytes as text."""
  return f'{size / 1e9:.1f} GB' if size >= 1e9 else f'{size / 1e6:.0f} MB'
