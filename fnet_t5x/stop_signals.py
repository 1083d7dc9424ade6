"""Ctrl-C and SIGTERM of a training run: after the step, or at once.

Python runs a signal handler between two of its own instructions: not while XLA
compiles, a step is computed or a library is loaded. So a thread watches for
signals too, and can end the process meanwhile.
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
  """What a run was told.

  Attributes:
    signal: the first signal that arrived; None if none did.
  """

  def __init__(self, stop: Callable[[], None], say: Callable[[str], None]):
    self.signal: signal.Signals | None = None
    self._stop = stop
    self._say = say
    self._said = False

  @property
  def exit_code(self) -> int:
    """The shell's for the signal, 128 and its number; 0 without one."""
    return 128 + self.signal if self.signal else 0

  def note(self, signum: signal.Signals) -> None:
    """Asks the run to stop; again and from any thread, too."""
    if self.signal is None:
      self.signal = signum
    self._stop()

  def announce(self) -> bool:
    """Says that the run stops; False if that is said already."""
    if self._said:
      return False
    self._said = True
    if self.signal == signal.SIGTERM:
      self._say('SIGTERM: stopping after the step under way')
    else:
      self._say('stopping after the step under way; Ctrl-C again ends at once')
    return True


class _Watcher:
  """The process's signal handlers, and the thread beside them."""

  def __init__(self, end: Callable[[signal.Signals, str], None]):
    """Takes over SIGINT and SIGTERM; in the main thread only.

    Args:
      end: ends the run at once, with a line to say; called in the thread.
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
    """Gives the signals back."""
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
    """In the main thread: no later than the next step."""
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
    # SIGTERM may come twice, to a process and to its group: only a person's
    # second wish counts.
    if not received.announce() and signum == signal.SIGINT:
      self._end(
        signum,
        'ended at once; the same command goes on from the last checkpoint',
      )


_watcher: _Watcher | None = None


def end_process() -> None:
  """From now on Ctrl-C and SIGTERM end the process at once, in one line.

  For a command, before its imports. Exit code 130 or 143, without Python's
  clean-up: what is written must be whole at any time.
  """
  global _watcher
  # Imports hold standard error back meanwhile.
  stderr = os.dup(2)

  def end(signum: signal.Signals, line: str) -> None:
    if os.isatty(stderr):
      # Over the terminal's `^C` and a progress bar, which hides the cursor.
      line = f'\r\x1b[2K\x1b[?25h{line}'
    os.write(stderr, f'{line}\n'.encode())
    os._exit(128 + signum)

  _watcher = _Watcher(end)


@contextlib.contextmanager
def deferred(
  stop: Callable[[], None], say: Callable[[str], None]
) -> Iterator[Received]:
  """Within the block the first Ctrl-C or SIGTERM asks the run to stop.

  A second Ctrl-C ends at once: the process, after `end_process`; elsewhere by
  a KeyboardInterrupt. The handlers before are restored. Outside the main
  thread, which alone gets signals, nothing changes.

  Args:
    stop: asks the run to stop; called in any thread, more than once.
    say: prints a line.
  """
  received = Received(stop, say)
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
