"""The run's time: its end, each section's share, and what still fits."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

Now = Callable[[], float]
_OLDEST = 60.0


def process_age() -> float:
  """Returns the seconds since this process was started, 0 where not known.

  Python itself and imports before any line of ours take their time too.
  """
  try:
    with open('/proc/self/stat') as file:
      # The second field, the program's name, may hold spaces.
      fields = file.read().rpartition(')')[2].split()
    started = int(fields[19]) / os.sysconf('SC_CLK_TCK')
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - started
    # Sandboxes may count from another moment than their kernel.
    return age if 0 <= age < _OLDEST else 0.0
  except (OSError, AttributeError, IndexError, ValueError):
    return 0.0


class Clock:
  """One section's share of the time.

  It also remembers how long cases of a kind took, compiling included, so that
  a case is not begun that would be cut off.
  """

  def __init__(self, end: float, now: Now = time.monotonic):
    """Starts the section.

    Args:
      end: when it must have ended, in seconds of `now`.
      now: the clock on the wall.
    """
    self.end = end
    self._now = now
    self._longest: dict[str, float] = {}

  def remaining(self) -> float:
    """Returns the seconds that the section still has, at least 0."""
    return max(self.end - self._now(), 0.0)

  def fits(self, seconds: float) -> bool:
    """Returns whether so many seconds still fit."""
    return seconds <= self.remaining()

  def expected(self, kind: str, guess: float) -> float:
    """Returns what a case of this kind takes: the longest so far.

    Args:
      kind: what cases share, such as 'forward'.
      guess: returned where none of the kind was run yet.
    """
    return self._longest.get(kind, guess)

  def took(self, kind: str, seconds: float) -> None:
    """Remembers what a case of this kind took."""
    self._longest[kind] = max(seconds, self._longest.get(kind, 0.0))


class TimeBudget:
  """The whole run's time, shared out to sections in their order.

  A section gets its share of what is left when it begins, relative to the
  shares of those after it: what one leaves goes on to all later ones.
  """

  def __init__(
    self, seconds: float, shares: Sequence[float], now: Now = time.monotonic
  ):
    """Starts the run.

    Args:
      seconds: that it may take, from now on.
      shares: of the sections, in their order and in any unit.
      now: the clock on the wall.

    Raises:
      ValueError: no time, or a share that is not positive.
    """
    if seconds <= 0 or any(share <= 0 for share in shares):
      raise ValueError(
        f'TimeBudget: {seconds:g} seconds, shares {list(shares)}; all must be '
        'positive'
      )
    self.end = now() + seconds
    self._now = now
    self._shares = list(shares)

  def next_clock(self) -> Clock:
    """Returns the clock of the section that begins now."""
    left = max(self.end - self._now(), 0.0)
    part = self._shares[0] / sum(self._shares)
    del self._shares[0]
    return Clock(self._now() + left * part, self._now)
