"""Memory that training on a CPU keeps from one step to the next.

XLA asks for the memory of every step anew. On Linux, glibc takes a large block
straight from the kernel, gives it back when it is free, and the next step's has
to be filled with zeros, page by page, before it can be written: about a fifth
of a tiny model's step on two cores (measured: `python -m
fnet_t5x.benchmarks.host_memory`).

It is not for writing, whose many small steps contend for the one heap, nor for
the hosts of accelerators, which have allocators and many threads of their own.
"""

import ctypes
import importlib.metadata
import importlib.util
import os

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
  """Has the allocator keep what is freed, where JAX has a CPU and no more.

  Call it before any library starts threads: theirs are the heaps that give
  memory back. The process then holds the most that it ever held. Settings of
  the allocator in the environment (MALLOC_ARENA_MAX, GLIBC_TUNABLES, ...) are
  the user's, and stay.

  Returns:
    Whether it does; False too where the allocator is not glibc's.
  """
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is None or _set_by_user() or not _only_cpu():
    return False
  # One heap that grows and never shrinks, and no block outside of it.
  settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
  return all(mallopt(name, value) for name, value in settings)


def _set_by_user() -> bool:
  return 'GLIBC_TUNABLES' in os.environ or any(
    name.startswith('MALLOC_') for name in os.environ
  )


def _only_cpu() -> bool:
  """Without asking JAX, whose answer starts threads."""
  platforms = os.environ.get('JAX_PLATFORMS')
  if platforms:
    return platforms == 'cpu'
  plugins = importlib.metadata.entry_points(group='jax_plugins')
  return not plugins and not any(
    importlib.util.find_spec(name) for name in ('jax_plugins', 'libtpu')
  )
