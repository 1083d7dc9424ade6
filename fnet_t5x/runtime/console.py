"""Terminal output of a run: lines of 80 columns, and a progress bar."""

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
# Prints `:100:` as it is, not as an emoji.
_CONSOLE = rich.console.Console(highlight=False, soft_wrap=True, emoji=False)


def print_line(line: str) -> None:
  """Prints one line, above the progress bar if there is one."""
  _CONSOLE.print(line, markup=False)


def is_terminal() -> bool:
  """Returns whether the output is a terminal, and so gets a progress bar."""
  return _CONSOLE.is_terminal


@contextlib.contextmanager
def waiting(what: str, seconds: float = 2.0) -> Iterator[None]:
  """Prints `what` if the block takes more than `seconds`."""
  timer = threading.Timer(seconds, print_line, [f'{what} ...'])
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def wrapped(fields: Sequence[str]) -> str:
  """Returns fields joined into lines of at most 80 columns.

  Fields are never broken: a longer one, such as a path, gets its own line.
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
  """Returns fields joined into one line, dropping some if it is too long.

  Args:
    fields: fields by name, in order; empty ones are omitted.
    spare: names of the fields that may be dropped, the first one first.
  """
  kept = {name: field for name, field in fields.items() if field}
  for name in spare:
    if len(_GAP.join(kept.values())) <= WIDTH:
      break
    kept.pop(name, None)
  return _GAP.join(kept.values())


def progress(total: int, completed: int) -> rich.progress.Progress | None:
  """Starts a progress bar of steps; returns None without a terminal."""
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
  """Suppresses unraisable errors that only repeat another error.

  Args:
    is_echo: returns whether to suppress an error. A second call with the same
      function has no effect.
  """
  hook = sys.unraisablehook
  if not (isinstance(hook, _Unless) and hook.drops(is_echo)):
    sys.unraisablehook = _Unless(is_echo, hook)


class _Unless:
  """Unraisable hook that passes all but echoes on to the previous hook."""

  def __init__(self, is_echo: Callable[[BaseException], bool], before: Any):
    self._is_echo = is_echo
    self._before = before

  def drops(self, is_echo: Callable[[BaseException], bool]) -> bool:
    """Returns whether this hook, or a previous one, has the same function."""
    if self._is_echo is is_echo:
      return True
    return isinstance(self._before, _Unless) and self._before.drops(is_echo)

  def __call__(self, unraisable: Any) -> None:
    error = unraisable.exc_value
    if error is None or not self._is_echo(error):
      self._before(unraisable)
