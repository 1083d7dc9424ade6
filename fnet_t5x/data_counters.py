"""What a run's data pipeline counts: documents left out, and why not silently.

Imports neither JAX nor TensorFlow. tf.data reads ahead in threads of its own.
"""

import collections
import threading
from collections.abc import Mapping

# Of their names in metrics.
_PREFIX = 'data/'
_LOCK = threading.Lock()
_COUNTS: collections.Counter[str] = collections.Counter()


def add(name: str, amount: int = 1) -> int:
  """Adds to a counter of this run, and returns what it counts now."""
  with _LOCK:
    _COUNTS[name] += amount
    return _COUNTS[name]


def counts() -> dict[str, int]:
  """Returns what was counted in this run so far, by name."""
  with _LOCK:
    return dict(_COUNTS)


def restore(values: Mapping[str, object]) -> None:
  """Goes on from what a run had counted; a run that starts had nothing.

  Args:
    values: its last metrics, the counts as 'data/<name>' among them. What is
      no count is left out: the file that they are from may be anybody's.
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
  """Sets all counters to nothing."""
  restore({})
