"""The names of jaxtyping, where it is not installed.

The networks annotate shapes with it and ask nothing else of it. A bare machine
has JAX and Flax, which do not require it.
"""

from __future__ import annotations

import sys
import types

_NAMES = (
  'Array',
  'ArrayLike',
  'Bool',
  'Complex',
  'Float',
  'Int',
  'Num',
  'PRNGKeyArray',
  'PyTree',
  'Shaped',
  'UInt',
)


class _Annotation:
  """Stands for any array: `Float[Array, 'batch length'] | None` is a type."""

  def __class_getitem__(cls, item):
    return cls


def provide() -> bool:
  """Has `import jaxtyping` work; returns whether this took a stand-in."""
  try:
    import jaxtyping  # noqa: F401
  except ImportError:
    module = types.ModuleType('jaxtyping', __doc__)
    for name in _NAMES:
      setattr(module, name, _Annotation)
    sys.modules['jaxtyping'] = module
    return True
  return False
