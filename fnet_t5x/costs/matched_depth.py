"""The depth of a network at which it costs about as much as another."""

from collections.abc import Callable


def nearest(cost: Callable[[int], float], target: float, start: int) -> int:
  """Returns the depth whose cost is closest to `target`.

  Args:
    cost: cost of a depth, linear in it.
    target: cost to approximate.
    start: a depth that costs less.
  """
  per_layer = cost(start + 1) - cost(start)
  return start + max(round((target - cost(start)) / per_layer), 0)
