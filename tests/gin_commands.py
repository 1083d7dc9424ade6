"""Commands as gin files know them: functions of `__main__`."""

import contextlib
import sys
from collections.abc import Callable, Iterator

import gin
import pytest


@contextlib.contextmanager
def of_main(*functions: Callable[..., object]) -> Iterator[None]:
  """Within the block `__main__` has these functions, by their names.

  Gin calls the last function that was registered under a name. A process of
  tests stands for several commands, so that may be another command's.
  """
  main = sys.modules['__main__']
  with pytest.MonkeyPatch.context() as patch:
    for function in functions:
      name = function.__name__
      patch.setattr(main, name, function, raising=False)
      gin.external_configurable(function, name, module='__main__')
    yield
