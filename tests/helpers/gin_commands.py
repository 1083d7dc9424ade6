"""Commands as gin files refer to them: functions of `__main__`."""

import contextlib
import sys
from collections.abc import Callable, Iterator

import gin
import pytest


@contextlib.contextmanager
def of_main(*functions: Callable[..., object]) -> Iterator[None]:
  """Makes these functions members of `__main__` within the block.

  Gin calls the function that was registered last under a name. Since one test
  process stands for several commands, that may be another command's.
  """
  main = sys.modules['__main__']
  with pytest.MonkeyPatch.context() as patch:
    for function in functions:
      name = function.__name__
      patch.setattr(main, name, function, raising=False)
      gin.external_configurable(function, name, module='__main__')
    yield
