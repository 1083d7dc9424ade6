"""Errors without a caller, printed beside the one that is told."""

import sys
from collections.abc import Callable
from typing import Any


def drop_unraisable(is_echo: Callable[[BaseException], bool]) -> None:
  """Drops errors that Python prints for want of a caller, from now on.

  Args:
    is_echo: says which; a second call with the same function adds nothing.
  """
  hook = sys.unraisablehook
  if not (isinstance(hook, _Unless) and hook.drops(is_echo)):
    sys.unraisablehook = _Unless(is_echo, hook)


class _Unless:
  """A hook that passes on, to the one before, what is no echo."""

  def __init__(self, is_echo: Callable[[BaseException], bool], before: Any):
    self._is_echo = is_echo
    self._before = before

  def drops(self, is_echo: Callable[[BaseException], bool]) -> bool:
    """Whether this hook, or one before it, drops by the same function."""
    if self._is_echo is is_echo:
      return True
    return isinstance(self._before, _Unless) and self._before.drops(is_echo)

  def __call__(self, unraisable: Any) -> None:
    error = unraisable.exc_value
    if error is None or not self._is_echo(error):
      self._before(unraisable)
