"""Counters of a run's data pipeline, such as skipped documents.

Imports neither JAX nor TensorFlow. Thread-safe: tf.data reads ahead in its own
threads.
"""

import collections
import threading
from collections.abc import Mapping

# Prefix of counters among metrics.
_PREFIX = 'data/'
_LOCK = threading.Lock()
_COUNTS: collections.Counter[str] = collections.Counter()


def add(name: str, amount: int = 1) -> int:
  """Adds to a counter of this run, and returns its new value."""
  with _LOCK:
    _COUNTS[name] += amount
    return _COUNTS[name]


def counts() -> dict[str, int]:
  """Returns the counters of this run, by name."""
  with _LOCK:
    return dict(_COUNTS)


def restore(values: Mapping[str, object]) -> None:
  """Sets the counters to those of a run that resumes.

  Args:
    values: its last metrics, with the counters as 'data/<name>' among them.
      Anything that is not a valid count is ignored, since the file they come
      from is not trusted.
  """
  kept = {
    name.removeprefix(_PREFIX): value
    for name, value in values.items()
    if name.startswith(_PREFIX) and type(value) is int and value >= 0
  }
  with _LOCK:
    _COUNTS.clear()
    _COUNTS.update(kept)


def reset() -> None:
  """Removes all counters."""
  restore({})
