"""The device's memory: what is free, and the most that was used."""

from __future__ import annotations

from typing import Any


def _stats() -> dict[str, Any]:
  import jax

  return jax.local_devices()[0].memory_stats() or {}


def free_bytes() -> float | None:
  """Returns what a program may still take; None where that is not known.

  On a CPU: what Linux says is available to new programs, all of the machine's.
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
  """Returns the device's memory, or what JAX takes of it, if it says so."""
  return _stats().get('bytes_limit')


def program_bytes(compiled: Any) -> dict[str, float]:
  """Returns what the compiler says that a program takes on the device.

  Args:
    compiled: as `compile_program` returns it.

  Returns:
    `argument_bytes`, and `peak_bytes`: arguments, results that are not put in
    their place, and the most that is held between. Empty where the platform
    does not say.
  """
  try:
    analysis = compiled.memory_analysis()
  except Exception:  # optional in JAX, by platform
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
  """Returns the most that was in use since JAX began; None: not known."""
  return _stats().get('peak_bytes_in_use')
