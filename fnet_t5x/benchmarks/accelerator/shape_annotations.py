"""Stand-in for jaxtyping on machines without it.

The networks only use it to annotate shapes. A bare machine has JAX and Flax,
which do not require it.
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
  'Inexact',
  'Int',
  'Num',
  'PRNGKeyArray',
  'PyTree',
  'Shaped',
  'UInt',
)


class _Annotation:
  """Any array type: makes `Float[Array, 'batch length'] | None` valid."""

  def __class_getitem__(cls, item):
    return cls


def provide() -> bool:
  """Makes `import jaxtyping` work; returns whether by the stand-in."""
  try:
    import jaxtyping  # noqa: F401
  except ImportError:
    module = types.ModuleType('jaxtyping', __doc__)
    for name in _NAMES:
      setattr(module, name, _Annotation)
    sys.modules['jaxtyping'] = module
    return True
  return False
