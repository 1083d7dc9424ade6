"""Reuse of freed memory between training steps on a CPU.

XLA allocates memory anew for every step. On Linux, glibc maps large blocks
straight from the kernel and unmaps them when they are freed, so that the kernel
has to zero the next step's pages again. That is about a fifth of the step time
of a tiny model on two cores (measured by
`python -m fnet_t5x.benchmarks.host_memory`).

Not for generation, whose many small steps contend for the one heap, and not for
the hosts of accelerators, which have their own allocators and many threads.
"""

import ctypes
import importlib.metadata
import importlib.util
import os

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
  """Makes the allocator keep freed memory if JAX has only a CPU.

  To be called before any library starts threads, since their arenas return
  memory to the kernel. Resident memory then stays at its peak. Does nothing if
  the user configures the allocator by the environment (MALLOC_ARENA_MAX,
  GLIBC_TUNABLES, ...).

  Returns:
    Whether freed memory is kept; always False for allocators other than
    glibc's.
  """
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is None or _set_by_user() or not _only_cpu():
    return False
  # One heap that never shrinks, and no blocks outside it.
  settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
  return all(mallopt(name, value) for name, value in settings)


def _set_by_user() -> bool:
  return 'GLIBC_TUNABLES' in os.environ or any(
    name.startswith('MALLOC_') for name in os.environ
  )


def _only_cpu() -> bool:
  """Whether JAX will have only a CPU; asking JAX itself starts threads."""
  platforms = os.environ.get('JAX_PLATFORMS')
  if platforms:
    return platforms == 'cpu'
  plugins = importlib.metadata.entry_points(group='jax_plugins')
  return not plugins and not any(
    importlib.util.find_spec(name) for name in ('jax_plugins', 'libtpu')
  )
