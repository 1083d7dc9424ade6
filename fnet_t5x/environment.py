"""Environment of a run: device, versions, commit."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from typing import Any

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
_FOLDER = pathlib.Path(__file__).parent


def describe_host() -> dict[str, Any]:
  """Returns versions, commit and machine, without starting JAX."""
  now = datetime.datetime.now(datetime.UTC)
  return {
    'date': now.strftime('%Y-%m-%d %H:%M UTC'),
    'python': platform.python_version(),
    'machine': platform.machine(),
    'processor': _processor(),
    'host_memory_bytes': os.sysconf('SC_PHYS_PAGES')
    * os.sysconf('SC_PAGE_SIZE'),
    'cpus': _available_cpus(),
    'versions': {name: _version(name) for name in _PACKAGES},
    'commit': commit(),
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
  }


def describe_device() -> dict[str, Any]:
  """Returns what JAX and the driver report about the device."""
  import jax

  device = jax.local_devices()[0]
  stats = device.memory_stats() or {}
  described = {
    'backend': jax.default_backend(),
    'device_kind': device.device_kind,
    'device_count': jax.device_count(),
    'memory_bytes': stats.get('bytes_limit'),
  }
  if described['backend'] == 'gpu':
    described['card'] = _card()
  return described


def commit() -> str | None:
  """Returns the checkout's commit, followed by '+' if files differ.

  Documents do not count: they do not change what is measured, and a benchmark
  may write to them. None if the checkout has no git history.
  """
  head = _output('git', '-C', str(_FOLDER), 'rev-parse', '--short=12', 'HEAD')
  if not head:
    return None
  changed = _output(
    *('git', '-C', str(_FOLDER), 'status', '--porcelain'),
    *('--untracked-files=no', '--', ':(top)', ':(top,exclude)docs'),
  )
  return head + ('+' if changed else '')


def _available_cpus() -> int | None:
  """Returns the number of CPU cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count()


def _processor() -> str | None:
  """Returns the processor's model, if the system tells."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    return platform.processor() or None
  for line in lines:
    name, _, value = line.partition(':')
    if name.strip() == 'model name':
      return value.strip()
  return None


def _card() -> str | None:
  """Returns the GPU's name, driver, memory, maximum clock and power limit."""
  fields = 'name,driver_version,memory.total,clocks.max.sm,power.limit'
  return _output('nvidia-smi', f'--query-gpu={fields}', '--format=csv,noheader')


def _output(*command: str) -> str | None:
  """Returns what a command prints, or None if it fails or does not exist."""
  try:
    ran = subprocess.run(command, capture_output=True, text=True, timeout=5)
  except (OSError, subprocess.TimeoutExpired):
    return None
  return ran.stdout.strip() or None if ran.returncode == 0 else None


def _version(name: str) -> str | None:
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None


def command(arguments: Sequence[str]) -> str:
  """Returns the command line, with paths reduced to their last component."""
  shown = [
    pathlib.Path(word).name if '/' in word else word for word in arguments
  ]
  return ' '.join(('python -m fnet_t5x.benchmarks.accelerator', *shown))
