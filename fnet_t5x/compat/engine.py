"""Choice of the engine that executes a run."""

import importlib.util
import os
import sys

_VARIABLE = 'FNET_T5X_ENGINE'
ENGINES = ('runtime', 't5x')


def engine_name() -> str:
  """Returns `'t5x'` or `'runtime'`.

  T5X if it is importable, otherwise the embedded runtime. The environment
  variable `FNET_T5X_ENGINE` takes precedence.

  Raises:
    ValueError: the variable is not an engine, or is T5X, which is missing.
  """
  installed = _t5x_folder() is not None
  chosen = os.environ.get(_VARIABLE) or ('t5x' if installed else 'runtime')
  if chosen not in ENGINES:
    raise ValueError(
      f'{_VARIABLE}={chosen!r} is not an engine; use one of '
      f'{", ".join(ENGINES)}'
    )
  if chosen == 't5x' and not installed:
    raise ValueError(
      f'{_VARIABLE}=t5x, but T5X is not importable; install it, or unset '
      f'{_VARIABLE} to use the embedded runtime'
    )
  return chosen


def _t5x_folder() -> str | None:
  """Returns the folder of T5X's package; None if it is not importable.

  A mere folder called t5x, such as a clone of T5X's repository in the current
  one, is importable as a namespace, but is not T5X.
  """
  spec = importlib.util.find_spec('t5x')
  return os.path.dirname(spec.origin) if spec and spec.origin else None


def check_command(main_file: str | None) -> None:
  """Ends the process if it is a command of T5X and the engine the runtime.

  Objects of both engines would meet, and fail with an AttributeError somewhere.

  Args:
    main_file: the file that Python runs, if any.

  Raises:
    SystemExit: as this is called when gin imports a module of this package, an
      error would be shown under a traceback of T5X's.
  """
  folder = _t5x_folder()
  if USES_T5X or folder is None or main_file is None:
    return
  name = os.path.basename(main_file).removesuffix('.py')
  if os.path.realpath(os.path.dirname(main_file)) == os.path.realpath(folder):
    sys.exit(
      f'error: {_VARIABLE}=runtime, but t5x.{name} runs with T5X: use python '
      f'-m fnet_t5x.{name}, or unset {_VARIABLE}'
    )


USES_T5X = engine_name() == 't5x'
check_command(getattr(sys.modules['__main__'], '__file__', None))
