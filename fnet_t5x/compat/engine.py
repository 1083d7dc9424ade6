"""The choice of the engine that executes a run, made in this one place."""

import importlib.util
import os

_VARIABLE = 'FNET_T5X_ENGINE'
ENGINES = ('runtime', 't5x')


def engine_name() -> str:
  """Returns `'t5x'` or `'runtime'`.

  T5X where it is importable, else the embedded runtime; the environment
  variable `FNET_T5X_ENGINE` overrides.

  Raises:
    ValueError: the variable names no engine, or names T5X and it is missing.
  """
  installed = importlib.util.find_spec('t5x') is not None
  chosen = os.environ.get(_VARIABLE) or ('t5x' if installed else 'runtime')
  if chosen not in ENGINES:
    raise ValueError(
      f'{_VARIABLE}={chosen!r} is no engine; use one of {", ".join(ENGINES)}'
    )
  if chosen == 't5x' and not installed:
    raise ValueError(
      f'{_VARIABLE}=t5x, but T5X is not importable; install it, or unset '
      f'{_VARIABLE} to use the embedded runtime'
    )
  return chosen


USES_T5X = engine_name() == 't5x'
