"""Commands as gin files refer to them: functions of `__main__`."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence

import gin
import pytest
from checkout import ROOT

from fnet_t5x.runtime import gin_utils


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


def run(
  function: Callable[..., object], files: Sequence[str], **bindings: object
) -> object:
  """Runs a command as its gin files and these macros say."""
  gin.clear_config()
  gin_utils.parse_gin_flags(
    [str(ROOT)],
    list(files),
    [f'{name} = {value!r}' for name, value in bindings.items()],
    finalize_config=False,
  )
  try:
    return gin.get_configurable(function)()
  finally:
    gin.clear_config()
