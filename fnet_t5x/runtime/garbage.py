"""Python's garbage collector, run between training steps only."""

import contextlib
import gc
from collections.abc import Iterable, Iterator
from typing import TypeVar

_T = TypeVar('_T')


@contextlib.contextmanager
def collected_every(
  steps: int, batches: Iterable[_T]
) -> Iterator[Iterator[_T]]:
  """Runs the garbage collector after every so many batches, at no other time.

  The processes of a run then pause at the same step, not one by one.

  Args:
    steps: batches between runs of the collector; 0 leaves it to Python.
    batches: one per training step.

  Yields:
    The batches.
  """
  if not steps:
    yield iter(batches)
    return
  was_enabled = gc.isenabled()
  gc.disable()
  try:
    yield _collecting(steps, batches)
  finally:
    if was_enabled:
      gc.enable()


def _collecting(steps: int, batches: Iterable[_T]) -> Iterator[_T]:
  for taken, batch in enumerate(batches):
    if taken and taken % steps == 0:
      gc.collect()
    yield batch
