"""What a run says on the terminal: lines of 80 columns, and a live bar."""

import contextlib
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence

import rich.console
import rich.progress

WIDTH = 80
STEP = 'step'
_GAP = '  '
# A loss of `:100:` is no emoji, a path no markup.
_CONSOLE = rich.console.Console(highlight=False, soft_wrap=True, emoji=False)


def say(line: str) -> None:
  """Prints one line, above the progress bar where one is shown."""
  _CONSOLE.print(line, markup=False)


def is_terminal() -> bool:
  """Returns whether someone watches: a bar tells the time left then."""
  return _CONSOLE.is_terminal


@contextlib.contextmanager
def waiting(what: str, seconds: float = 2.0) -> Iterator[None]:
  """Says what the block waits for, if it takes so many seconds."""
  timer = threading.Timer(seconds, say, [f'{what} ...'])
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
