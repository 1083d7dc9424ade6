"""Memory of the device: total, free, and peak."""

from __future__ import annotations

from typing import Any


def _stats() -> dict[str, Any]:
  import jax

  return jax.local_devices()[0].memory_stats() or {}


def free_bytes() -> float | None:
  """Returns the free memory in bytes, or None if unknown.

  On a CPU, this is what Linux reports as available to new programs.
  """
  stats = _stats()
  if 'bytes_limit' in stats:
    return stats['bytes_limit'] - stats.get('bytes_in_use', 0)
  try:
    with open('/proc/meminfo') as file:
      lines = dict(line.split(':', 1) for line in file)
    return int(lines['MemAvailable'].split()[0]) * 1024.0
  except (OSError, KeyError, ValueError):
    return None


def total_bytes() -> float | None:
  """Returns the memory that JAX may use on the device, or None if unknown."""
  return _stats().get('bytes_limit')


def program_bytes(compiled: Any) -> dict[str, float]:
  """Returns the compiler's account of a program's memory on the device.

  Args:
    compiled: the `compiled` of a `Program`.

  Returns:
    `argument_bytes`, and `peak_bytes`: arguments, results that do not alias
    arguments, and temporaries. Empty if the platform does not report them.
  """
  try:
    analysis = compiled.memory_analysis()
  except Exception:  # Optional in JAX, depending on the platform.
    return {}
  if analysis is None:
    return {}
  held = (
    analysis.argument_size_in_bytes
    + analysis.output_size_in_bytes
    - analysis.alias_size_in_bytes
    + analysis.temp_size_in_bytes
  )
  return {
    'argument_bytes': float(analysis.argument_size_in_bytes),
    'peak_bytes': float(held),
  }


def peak_bytes() -> float | None:
  """Returns the peak memory in use since JAX started, or None if unknown."""
  return _stats().get('peak_bytes_in_use')
