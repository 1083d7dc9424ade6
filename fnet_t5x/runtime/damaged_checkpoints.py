"""Detection of damaged checkpoints, which a resuming run sets aside.

Checksums reveal damage where there are any; otherwise the reader's errors do.
Imports are light: commands check a folder before importing anything heavy.
"""

import contextlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from fnet_t5x.runtime import checksums

_ASIDE = 'damaged_'
# Required by Orbax to read a checkpoint; the first two are JSON.
_FILES = ('_CHECKPOINT_METADATA', 'state/_METADATA', 'state/manifest.ocdbt')
_MAX_DETAIL = 160
T = TypeVar('T')
Steps = Callable[[], Sequence[int]]


class DamagedError(ValueError):
  """A checkpoint that cannot be read or has changed; its message is one line.

  Attributes:
    what: the message without the remedy: checkpoint, file and damage.
  """

  def __init__(self, what: str, remedy: str = ''):
    super().__init__(f'{what}; {remedy}' if remedy else what)
    self.what = what


def check(
  checkpoint: str | os.PathLike,
  steps: Steps,
  contents: bool = True,
  position: bool = True,
) -> bool:
  """Verifies a checkpoint against its checksums.

  Args:
    checkpoint: its folder, local or remote.
    steps: returns the steps of all checkpoints in its directory, for the
      remedy.
    contents: whether to read all files; otherwise only sizes are compared.
    position: whether the position in the training data will be restored. If
      not, damage to it is reported but is not an error.

  Returns:
    Whether there are checksums. T5X's checkpoints have none.

  Raises:
    DamagedError: a file has changed since the save.
  """
  path = os.fspath(checkpoint)
  if not checksums.is_recorded(path):
    return False
  damages = checksums.damages(path, contents)
  of_position = [d for d in damages if d.file.split('/')[0] == 'dataset']
  of_state = [d for d in damages if d not in of_position]
  if of_state or (position and of_position):
    first, *others = of_state or of_position
    more = f' (and {len(others)} more)' if others else ''
    raise DamagedError(
      f'{path} is damaged: {first.file} {first.reason}{more}',
      _remedy(path, steps(), parameters=not of_state),
    )
  if of_position and contents:
    from fnet_t5x.runtime import console

    first = of_position[0]
    console.print_line(f'{path}: {first.file} {first.reason}; not needed here')
  return True


@contextlib.contextmanager
def reading(
  checkpoint: str | os.PathLike, steps: Steps = lambda: ()
) -> Iterator[None]:
  """Turns read errors of the block into a `DamagedError`.

  For checkpoints without checksums: if checksums match, an error has another
  cause.

  Args:
    checkpoint: its folder.
    steps: as for `check`.

  Raises:
    DamagedError: the block raised an error that a damaged file can cause.
  """
  try:
    yield
  # Orbax raises `Exception` itself where an array cannot be read.
  except Exception as error:
    # Out of memory: not the checkpoint's fault.
    if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error):
      raise
    _silence_echoes()
    path = os.fspath(checkpoint)
    raise DamagedError(
      f'{path} is damaged: {_detail(checkpoint, error)}',
      _remedy(path, steps()),
    ) from error


def restored(
  steps: Sequence[int],
  checkpoint: Callable[[int], str],
  restore: Callable[[int], T],
  say: Callable[[str], None],
) -> T:
  """Restores the last readable checkpoint, and sets later ones aside.

  Damaged checkpoints are renamed once an earlier one is restored; nothing is
  deleted. If none can be read, nothing is renamed.

  Args:
    steps: of the checkpoints in a folder, sorted, at least one.
    checkpoint: returns the folder of the checkpoint of a step.
    restore: restores the checkpoint of a step; on a DamagedError the previous
      step is tried.
    say: prints a line.

  Raises:
    DamagedError: none can be read; names the damage of the last one.
  """
  errors = {}
  for step in reversed(steps):
    try:
      result = restore(step)
    except DamagedError as error:
      errors[step] = error
      continue
    for damaged, error in errors.items():
      say(error.what)
      say(f'  set aside as {_set_aside(checkpoint(damaged))}')
    return result
  last = errors[steps[-1]]
  if len(errors) == 1:
    raise last
  raise DamagedError(
    f'{last.what}; none of the {len(errors)} checkpoints beside it can be read'
  )


def _remedy(path: str, steps: Sequence[int], parameters: bool = False) -> str:
  """Returns the remedy for a damaged checkpoint.

  Args:
    path: its folder.
    steps: of all checkpoints in its directory.
    parameters: whether its parameters are intact.
  """
  folder, _, name = path.rpartition('/')
  own = int(re.sub(r'\D', '', name) or -1)
  # The last one before it, otherwise the first one after it.
  for step in sorted(steps, key=lambda s: (s > own, abs(s - own))):
    other = f'{folder}/checkpoint_{step}'
    if step != own and _seems_intact(other):
      return f'use {other} (--checkpoint_step={step})'
  if parameters:
    return (
      'its parameters are intact: start from them in another MODEL_DIR '
      '(INITIAL_CHECKPOINT_PATH in gin/runs/start_from_t5.gin)'
    )
  return 'its folder holds no other intact checkpoint: restore it from a backup'


def _seems_intact(checkpoint: str) -> bool:
  """Whether all files exist with the recorded sizes."""
  if checksums.is_recorded(checkpoint):
    return not checksums.damages(checkpoint, contents=False)
  from etils import epath

  return (epath.Path(checkpoint) / 'state').is_dir()


def _silence_echoes() -> None:
  """Suppresses tracebacks of reads that nothing waits for any more.

  Orbax reads all arrays concurrently. The first failure is raised; Python
  prints the others when their futures are collected. `FNET_T5X_TRACEBACK` shows
  them.
  """
  # Imported here because `command_line` imports this module indirectly.
  from fnet_t5x import command_line
  from fnet_t5x.runtime import console

  if os.environ.get(command_line.TRACEBACK_VARIABLE):
    return
  logging.getLogger('asyncio').addFilter(_is_not_echo)
  console.drop_unraisable(_is_other_read)


def _is_not_echo(record: logging.LogRecord) -> bool:
  return 'never retrieved' not in record.getMessage()


def _is_other_read(error: BaseException) -> bool:
  return 'reading array index' in str(error)


def _set_aside(checkpoint: str) -> str:
  """Renames a checkpoint so that it no longer counts; returns the new name."""
  from etils import epath

  path = epath.Path(checkpoint)
  target = path.parent / f'{_ASIDE}{path.name}'
  number = 2
  while target.exists():
    target = path.parent / f'{_ASIDE}{path.name}_{number}'
    number += 1
  path.rename(target)
  return target.name


def _detail(checkpoint: str | os.PathLike, error: BaseException) -> str:
  """Returns the damaged file, as far as the files or the error reveal it."""
  from etils import epath

  folder = epath.Path(checkpoint)
  for name in _FILES:
    path = folder / name
    if not path.exists():
      return f'{name} is missing'
    if not path.is_file():
      return f'{name} is not a file'
    if path.name.endswith('METADATA'):
      try:
        json.loads(path.read_bytes())
      except ValueError:
        return f'{name} is truncated or has changed'
  while error.__cause__ is not None:
    error = error.__cause__
  text = ' '.join(str(error).split())
  # TensorStore's `Error reading "target.encoder.../0.0"`.
  array = re.search(r'Error (?:reading|opening)[^"]* "([\w.]+)/', text)
  if array:
    return f'the data of {array[1]} cannot be read'
  named = re.search(rf'{re.escape(os.fspath(checkpoint))}/([^\s"\':\]]+)', text)
  if named:
    return f'{named[1]} cannot be read'
  kind = type(error).__name__
  return f'{kind}: {text[:_MAX_DETAIL]}' if text else kind
