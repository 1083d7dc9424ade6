"""One-line error for a full disk."""

import contextlib
import errno
import logging
import os
import shutil
import sys
from collections.abc import Iterator

from fnet_t5x import command_line
from fnet_t5x.runtime import checkpoints, console, free_memory

_FULL = (errno.ENOSPC, errno.EDQUOT)
# Texts of the same in errors of TensorFlow and TensorStore, without `errno`.
_FULL_TEXTS = tuple(os.strerror(number) for number in _FULL)


@contextlib.contextmanager
def exhaustion_named(model_dir: str) -> Iterator[None]:
  """Turns the block's out-of-disk-space errors into one that names remedies.

  Further tracebacks of Orbax's threads are suppressed, also at exit, unless
  `FNET_T5X_TRACEBACK` is set.

  Args:
    model_dir: the directory that the block writes to.

  Raises:
    OSError: the disk or the user's quota is full.
  """
  if not os.environ.get(command_line.TRACEBACK_VARIABLE):
    for name in ('absl', 'asyncio'):
      logging.getLogger(name).addFilter(_is_not_echo)
  hook = sys.unraisablehook
  console.drop_unraisable(_is_of_tensorstore)
  try:
    yield
  except Exception as error:
    if not _is_full(error):
      raise
    raise OSError(_line(model_dir)) from error
  else:
    # Not after an error: Orbax's threads may still run for a while.
    sys.unraisablehook = hook


def _line(model_dir: str) -> str:
  free = ''
  with contextlib.suppress(OSError):
    size = shutil.disk_usage(model_dir).free
    free = f' ({free_memory.size_text(size)} free)'
  step = checkpoints.latest_step(model_dir)
  kept = 'no checkpoint was saved'
  if step is not None:
    kept = f'the checkpoint of step {step} is kept'
  return (
    f'the disk of {model_dir} is full{free}, or your quota there: stopped; '
    f'{kept}. Free some space, or lower KEEP_CHECKPOINTS; the same command '
    'then continues'
  )


def _is_full(error: BaseException | None) -> bool:
  """Whether a full disk caused the error, directly or through its chain."""
  while error is not None:
    if isinstance(error, OSError) and error.errno in _FULL:
      return True
    if any(text in str(error) for text in _FULL_TEXTS):
      return True
    error = error.__cause__ or error.__context__
  return False


def _is_not_echo(record: logging.LogRecord) -> bool:
  """Whether to keep a log record: not the traceback of a thread's error."""
  if not record.exc_info:
    return True
  of_orbax = f'{os.sep}orbax{os.sep}' in record.pathname
  return not of_orbax and not _is_full(record.exc_info[1])


def _is_of_tensorstore(error: BaseException) -> bool:
  """Whether TensorStore raised it because Orbax no longer waits for it."""
  return type(error) is RuntimeError and str(error) == 'Event loop is closed'
