"""Watchdog that ends a run at its time limit."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable


class Watchdog:
  """A thread that ends the process at a given time.

  A compilation cannot be interrupted from Python. Since all results are in
  their file already, exiting at once loses nothing.
  """

  def __init__(self, end: float, before: Callable[[], None]):
    """Starts the thread.

    Args:
      end: time of the end, in seconds of `time.monotonic`.
      before: called before the exit; its exceptions do not prevent it.
    """
    self._end = end
    self._before = before
    self._done = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)
    self._thread.start()

  def stop(self) -> None:
    """Cancels the watchdog."""
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
