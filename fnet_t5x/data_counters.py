"""What a run's data pipeline counts: documents left out, and why not silently.

Imports neither JAX nor TensorFlow. tf.data reads ahead in threads of its own.
"""

import collections
import threading

_LOCK = threading.Lock()
_COUNTS: collections.Counter[str] = collections.Counter()


def add(name: str, amount: int = 1) -> int:
  """Adds to a counter of this process, and returns what it counts now."""
  with _LOCK:
    _COUNTS[name] += amount
    return _COUNTS[name]


def counts() -> dict[str, int]:
  """Returns what was counted in this process so far, by name."""
  with _LOCK:
    return dict(_COUNTS)


def reset() -> None:
  """Sets all counters to nothing."""
  with _LOCK:
    _COUNTS.clear()
