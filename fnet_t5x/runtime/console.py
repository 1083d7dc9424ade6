"""What a run says on the terminal: one plain line, or a live bar's line."""

import rich.console
import rich.progress

# A loss of `:100:` is no emoji, a path no markup.
_CONSOLE = rich.console.Console(highlight=False, soft_wrap=True, emoji=False)


def say(line: str) -> None:
  """Prints one line, above the progress bar where one is shown."""
  _CONSOLE.print(line, markup=False)


def progress(total: int, completed: int) -> rich.progress.Progress | None:
  """Starts a bar of steps; none where the output is no terminal."""
  if not _CONSOLE.is_terminal:
    return None
  bar = rich.progress.Progress(
    rich.progress.TextColumn('step'),
    rich.progress.MofNCompleteColumn(),
    rich.progress.BarColumn(),
    rich.progress.TimeRemainingColumn(),
    console=_CONSOLE,
    transient=True,
  )
  bar.add_task('train', total=total, completed=completed)
  bar.start()
  return bar
