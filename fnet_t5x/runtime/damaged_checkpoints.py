"""Checkpoints that cannot be read: named, and set aside by a resuming run."""

import contextlib
import functools
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from etils import epath

_ASIDE = 'damaged_'
# Without these no checkpoint of Orbax's is read; the first two are JSON.
_FILES = ('_CHECKPOINT_METADATA', 'state/_METADATA', 'state/manifest.ocdbt')
_MAX_DETAIL = 160
T = TypeVar('T')


class DamagedError(ValueError):
  """A checkpoint cannot be read: one line that names it."""


@contextlib.contextmanager
def reading(checkpoint: str | os.PathLike) -> Iterator[None]:
  """Turns what the block cannot read of a checkpoint into one line.

  Args:
    checkpoint: its folder.

  Raises:
    DamagedError: the block raised what a damaged file makes a reader raise.
  """
  try:
    yield
  # Orbax raises `Exception` itself where an array cannot be read.
  except Exception as error:
    # That is the machine's lack, and no fault of the checkpoint.
    if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error):
      raise
    _silence_echoes()
    raise DamagedError(
      f'{os.fspath(checkpoint)} is damaged: {_detail(checkpoint, error)}'
    ) from error


def restored(
  steps: Sequence[int],
  checkpoint: Callable[[int], str],
  restore: Callable[[int], T],
  say: Callable[[str], None],
) -> T:
  """Restores the last checkpoint that can be read, and sets later ones aside.

  They are renamed, once an earlier one is restored; nothing is deleted. Where
  none can be read, nothing is renamed either.

  Args:
    steps: of a folder's checkpoints, sorted, at least one.
    checkpoint: the folder of a step's.
    restore: restores a step's; a DamagedError makes the step before it the
      next to be tried.
    say: prints a line.

  Raises:
    DamagedError: none can be read; the error of the last one.
  """
  errors = {}
  for step in reversed(steps):
    try:
      result = restore(step)
    except DamagedError as error:
      errors[step] = error
      continue
    for damaged, error in errors.items():
      say(str(error))
      say(f'  set aside as {_set_aside(checkpoint(damaged))}')
    return result
  last = errors[steps[-1]]
  if len(errors) == 1:
    raise last
  raise DamagedError(
    f'{last}; none of the {len(errors)} checkpoints beside it can be read'
  )


def _silence_echoes() -> None:
  """Leaves out tracebacks of reads that nobody waits for any more.

  Orbax reads all arrays at once. The first that fails is the error; the others
  are printed, one by one, when they are forgotten. `FNET_T5X_TRACEBACK` shows
  them.
  """
  # Commands import what imports this.
  from fnet_t5x import command_line

  if os.environ.get(command_line.TRACEBACK_VARIABLE):
    return
  logging.getLogger('asyncio').addFilter(_is_no_echo)
  if not isinstance(sys.unraisablehook, functools.partial):
    sys.unraisablehook = functools.partial(_unless_echo, sys.unraisablehook)


def _is_no_echo(record: logging.LogRecord) -> bool:
  return 'never retrieved' not in record.getMessage()


def _unless_echo(hook, unraisable) -> None:
  if 'reading array index' not in str(unraisable.exc_value):
    hook(unraisable)


def _set_aside(checkpoint: str) -> str:
  """Renames a checkpoint so that nothing takes it for one; returns its name."""
  path = epath.Path(checkpoint)
  target = path.parent / f'{_ASIDE}{path.name}'
  number = 2
  while target.exists():
    target = path.parent / f'{_ASIDE}{path.name}_{number}'
    number += 1
  path.rename(target)
  return target.name


def _detail(checkpoint: str | os.PathLike, error: BaseException) -> str:
  """Says which file, as far as the files or the error tell."""
  folder = epath.Path(checkpoint)
  for name in _FILES:
    path = folder / name
    if not path.exists():
      return f'{name} is missing'
    if not path.is_file():
      return f'{name} is no file'
    if path.name.endswith('METADATA'):
      try:
        json.loads(path.read_bytes())
      except ValueError:
        return f'{name} is cut, or no longer what was written'
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
