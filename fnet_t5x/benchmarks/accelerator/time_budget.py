"""Time budget of a run: its end, and the shares of sections."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

Now = Callable[[], float]
_OLDEST = 60.0


def process_age() -> float:
  """Returns the seconds since this process was started, or 0 if unknown.

  The limit of a run includes the start of Python and earlier imports.
  """
  try:
    with open('/proc/self/stat') as file:
      # The second field, the program's name, may contain spaces.
      fields = file.read().rpartition(')')[2].split()
    started = int(fields[19]) / os.sysconf('SC_CLK_TCK')
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - started
    # In sandboxes, boot time and start time may have different origins.
    return age if 0 <= age < _OLDEST else 0.0
  except (OSError, AttributeError, IndexError, ValueError):
    return 0.0


class Clock:
  """One section's share of the time.

  It also records how long cases of a kind took, including compilation, so that
  no case is started that would be cut off.
  """

  def __init__(self, end: float, now: Now = time.monotonic):
    """Starts the section.

    Args:
      end: time by which it must have ended, in seconds of `now`.
      now: the wall clock.
    """
    self.end = end
    self._now = now
    self._longest: dict[str, float] = {}

  def remaining(self) -> float:
    """Returns the seconds left for the section, at least 0."""
    return max(self.end - self._now(), 0.0)

  def fits(self, seconds: float) -> bool:
    """Returns whether this many seconds are left."""
    return seconds <= self.remaining()

  def expected(self, kind: str, guess: float) -> float:
    """Returns the expected time of a case: the longest of its kind so far.

    Args:
      kind: name shared by similar cases, such as 'forward'.
      guess: result if no case of the kind has run yet.
    """
    return self._longest.get(kind, guess)

  def took(self, kind: str, seconds: float) -> None:
    """Records how long a case of this kind took."""
    self._longest[kind] = max(seconds, self._longest.get(kind, 0.0))


class TimeBudget:
  """The whole run's time, divided among sections in order.

  A section gets its share of the time left when it begins, relative to the
  shares of later sections: time that it does not use goes to all of those.
  """

  def __init__(
    self, seconds: float, shares: Sequence[float], now: Now = time.monotonic
  ):
    """Starts the run.

    Args:
      seconds: time limit, from now on.
      shares: shares of the sections, in order and in any unit.
      now: the wall clock.

    Raises:
      ValueError: if the time or a share is not positive.
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
    """Returns the clock of the next section, which begins now."""
    left = max(self.end - self._now(), 0.0)
    part = self._shares[0] / sum(self._shares)
    del self._shares[0]
    return Clock(self._now() + left * part, self._now)
