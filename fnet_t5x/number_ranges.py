"""Numbers of gin files that must lie in a range."""

import math


def check(
  name: str,
  value: object,
  minimum: float,
  below: float = math.inf,
  maximum: float = math.inf,
  whole: bool = False,
) -> None:
  """Refuses what is no number, or out of range; NaN and infinity are both.

  Args:
    name: what the user sets, for the message.
    value: as it is set.
    minimum: the lowest that is allowed.
    below: all that is allowed is less than this.
    maximum: the highest that is allowed.
    whole: whether it must be a whole number.

  Raises:
    ValueError: one line with the name, the value and the range.
  """
  is_number = hasattr(value, '__float__') and not isinstance(value, bool)
  if whole:
    is_number = is_number and hasattr(value, '__index__')
  # Written so that no comparison with NaN holds.
  if is_number and minimum <= value < below and value <= maximum:
    return
  kind = 'a whole number' if whole else 'a number'
  if below < math.inf:
    limits = f', at least {minimum:g} and less than {below:g}'
  elif maximum < math.inf:
    limits = f' from {minimum:g} to {maximum:g}'
  else:
    limits = f', at least {minimum:g}'
  raise ValueError(f'{name} is {value!r}; it must be {kind}{limits}')
