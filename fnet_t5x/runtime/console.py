"""A run's terminal: lines of 80 columns, a live bar, no echoes of errors."""

import contextlib
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import rich.console
import rich.progress

WIDTH = 80
STEP = 'step'
_GAP = '  '
# A loss of `:100:` is no emoji, a path no markup.
_CONSOLE = rich.console.Console(highlight=False, soft_wrap=True, emoji=False)


def print_line(line: str) -> None:
  """Prints one line, above the progress bar where one is shown."""
  _CONSOLE.print(line, markup=False)


def is_terminal() -> bool:
  """Returns whether someone watches: a bar tells the time left then."""
  return _CONSOLE.is_terminal


@contextlib.contextmanager
def waiting(what: str, seconds: float = 2.0) -> Iterator[None]:
  """Says what the block waits for, if it takes so many seconds."""
  timer = threading.Timer(seconds, print_line, [f'{what} ...'])
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def wrapped(fields: Sequence[str]) -> str:
  """Returns fields side by side, in as many lines as they take.

  A field is not cut: one that is longer than a line, such as a path, has its
  own.
  """
  lines = [fields[0]]
  for field in fields[1:]:
    longer = lines[-1] + _GAP + field
    if len(longer) <= WIDTH:
      lines[-1] = longer
    else:
      lines.append(_GAP + field)
  return '\n'.join(lines)


def fitted(fields: Mapping[str, str], spare: Collection[str]) -> str:
  """Returns fields side by side in one line, without those it has no room for.

  Args:
    fields: by name, in their order; empty ones are left out.
    spare: names of the fields that may go, the first one first.
  """
  kept = {name: field for name, field in fields.items() if field}
  for name in spare:
    if len(_GAP.join(kept.values())) <= WIDTH:
      break
    kept.pop(name, None)
  return _GAP.join(kept.values())


def progress(total: int, completed: int) -> rich.progress.Progress | None:
  """Starts a bar of steps; none where the output is no terminal."""
  if not is_terminal():
    return None
  bar = rich.progress.Progress(
    rich.progress.SpinnerColumn(),
    rich.progress.TextColumn('{task.description}'),
    rich.progress.MofNCompleteColumn(),
    rich.progress.BarColumn(),
    rich.progress.TimeRemainingColumn(),
    rich.progress.TextColumn('left'),
    console=_CONSOLE,
    transient=True,
  )
  bar.add_task(STEP, total=total, completed=completed)
  bar.start()
  return bar


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
