"""The end of a run that does not end by itself."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable


class Watchdog:
  """Ends the process at a moment, whatever it is doing then.

  A compilation cannot be interrupted from Python. Results are in their file
  already, so that nothing is lost by leaving at once.
  """

  def __init__(self, end: float, before: Callable[[], None]):
    """Starts to watch.

    Args:
      end: in seconds of `time.monotonic`.
      before: called first; what it raises is passed over.
    """
    self._end = end
    self._before = before
    self._done = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)
    self._thread.start()

  def stop(self) -> None:
    """Lets the process end by itself."""
    self._done.set()

  def _watch(self):
    if self._done.wait(max(self._end - time.monotonic(), 0.0)):
      return
    try:
      self._before()
    finally:
      sys.stdout.flush()
      sys.stderr.flush()
      # Not sys.exit: it would wait for the main thread, which may hang.
      os._exit(0)
