"""Range checks of numbers from gin files."""

import math


def check(
  name: str,
  value: object,
  minimum: float,
  below: float = math.inf,
  maximum: float = math.inf,
  whole: bool = False,
) -> None:
  """Checks that a value is a finite number within a range.

  Args:
    name: name of the setting, for the message.
    value: its value.
    minimum: inclusive lower limit.
    below: exclusive upper limit.
    maximum: inclusive upper limit.
    whole: whether it must be a whole number.

  Raises:
    ValueError: if it is not; one line with the name, the value and the range.
  """
  is_number = hasattr(value, '__float__') and not isinstance(value, bool)
  if whole:
    is_number = is_number and hasattr(value, '__index__')
  # False for NaN, since every comparison with it is.
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
