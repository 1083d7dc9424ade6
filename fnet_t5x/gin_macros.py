"""Values of gin macros, in Python."""

from typing import Any

import gin


@gin.configurable(module='gin_macros')
def _macro(value=gin.REQUIRED):
  return value


def value(name: str) -> Any:
  """Returns the value of a macro, with its references resolved.

  What it refers to is called again each time.

  Args:
    name: name of the macro, without '%'.

  Raises:
    TypeError: from gin, if the macro, or one that it refers to, is not set; it
      names the macro.
  """
  gin.parse_config(f'gin_macros._macro.value = %{name}')
  return _macro()
