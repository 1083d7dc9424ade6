"""Choice of the engine that executes a run."""

import importlib.util
import os

_VARIABLE = 'FNET_T5X_ENGINE'
ENGINES = ('runtime', 't5x')


def engine_name() -> str:
  """Returns `'t5x'` or `'runtime'`.

  T5X if it is importable, otherwise the embedded runtime. The environment
  variable `FNET_T5X_ENGINE` takes precedence.

  Raises:
    ValueError: the variable is not an engine, or is T5X, which is missing.
  """
  installed = importlib.util.find_spec('t5x') is not None
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


USES_T5X = engine_name() == 't5x'
