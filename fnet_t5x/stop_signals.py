"""Handling of Ctrl-C and SIGTERM in training: after the step, or at once.

Python runs signal handlers between its own instructions: not while XLA
compiles, a step runs or a library loads. A thread therefore watches for signals
too, and can end the process at such times.
"""

import _thread
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AT_ONCE = {
  signal.SIGINT: 'interrupted',
  signal.SIGTERM: 'stopped by SIGTERM',
}


class Received:
  """The signal that a run received.

  Attributes:
    signal: the first signal that arrived; None if none did.
  """

  def __init__(
    self, stop: Callable[[], None], print_line: Callable[[str], None]
  ):
    self.signal: signal.Signals | None = None
    self._stop = stop
    self._print_line = print_line
    self._announced = False

  @property
  def exit_code(self) -> int:
    """The shell's exit code for the signal, 128 + number; 0 without one."""
    return 128 + self.signal if self.signal else 0

  def note(self, signum: signal.Signals) -> None:
    """Asks the run to stop; may be called repeatedly, from any thread."""
    if self.signal is None:
      self.signal = signum
    self._stop()

  def announce(self) -> bool:
    """Prints that the run is stopping; returns False if it has before."""
    if self._announced:
      return False
    self._announced = True
    if self.signal == signal.SIGTERM:
      self._print_line('SIGTERM: stopping after the current step')
    else:
      self._print_line(
        'stopping after the current step; Ctrl-C again stops at once'
      )
    return True


class _Watcher:
  """The process's signal handlers, and the thread that watches for signals."""

  def __init__(self, end: Callable[[signal.Signals, str], None]):
    """Takes over SIGINT and SIGTERM; in the main thread only.

    Args:
      end: ends the run at once and prints a line; called in the watcher thread.
    """
    self.received: Received | None = None
    self._end = end
    self._interrupts = False
    read, self._write = os.pipe()
    os.set_blocking(self._write, False)
    self._handlers = {s: signal.signal(s, self._handle) for s in _SIGNALS}
    self._other = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
    threading.Thread(target=self._watch, args=(read,), daemon=True).start()

  def close(self) -> None:
    """Restores the previous signal handlers."""
    signal.set_wakeup_fd(self._other)
    for signum, handler in self._handlers.items():
      signal.signal(signum, handler)
    os.close(self._write)

  def interrupt(self) -> None:
    """Raises KeyboardInterrupt in the main thread."""
    if not self._interrupts:
      self._interrupts = True
      _thread.interrupt_main()

  def _handle(self, signum, frame) -> None:
    """Handles a signal in the main thread, at the latest at the next step."""
    del frame
    if self._interrupts:
      raise KeyboardInterrupt
    if self.received:
      self.received.note(signal.Signals(signum))

  def _watch(self, read: int) -> None:
    while number := os.read(read, 1):
      if number[0] in _SIGNALS:
        self._arrived(signal.Signals(number[0]))
    os.close(read)

  def _arrived(self, signum: signal.Signals) -> None:
    received = self.received
    if received is None:
      self._end(signum, _AT_ONCE[signum])
      return
    received.note(signum)
    # SIGTERM may arrive twice, sent to the process and to its group: only a
    # second Ctrl-C ends the run at once.
    if not received.announce() and signum == signal.SIGINT:
      self._end(
        signum,
        'stopped at once; the same command resumes from the last checkpoint',
      )


_watcher: _Watcher | None = None


def end_process() -> None:
  """Makes Ctrl-C and SIGTERM end the process at once, with one line.

  To be called by a command before its imports. The exit code is 130 or 143.
  Python does not clean up, so that files must be complete at all times.
  """
  global _watcher
  # A duplicate, since standard error is suppressed during imports.
  stderr = os.dup(2)

  def end(signum: signal.Signals, line: str) -> None:
    if os.isatty(stderr):
      # Overwrites `^C` and a progress bar, and shows the cursor it hides.
      line = f'\r\x1b[2K\x1b[?25h{line}'
    os.write(stderr, f'{line}\n'.encode())
    os._exit(128 + signum)

  _watcher = _Watcher(end)


@contextlib.contextmanager
def deferred(
  stop: Callable[[], None], print_line: Callable[[str], None]
) -> Iterator[Received]:
  """Makes the first Ctrl-C or SIGTERM within the block ask the run to stop.

  A second Ctrl-C acts at once: after `end_process` it ends the process,
  otherwise it raises KeyboardInterrupt. The previous handlers are restored.
  Does nothing outside the main thread, which alone receives signals.

  Args:
    stop: asks the run to stop; called from any thread, maybe repeatedly.
    print_line: prints a line.
  """
  received = Received(stop, print_line)
  if threading.current_thread() is not threading.main_thread():
    yield received
    return
  watcher = _watcher or _Watcher(lambda *_: watcher.interrupt())
  watcher.received = received
  try:
    yield received
  finally:
    watcher.received = None
    if watcher is not _watcher:
      watcher.close()
