"""TensorStore's counts of bytes, read without a leak.

At each save and restore Orbax reads how many bytes TensorStore has written and
read so far, for `jax.monitoring`. TensorStore 0.1.86 hands its metrics out as
dictionaries of which every key and value has a reference too many
(`JsonToPyObject` of its `python/tensorstore/json_type_caster.cc`), so that some
15 KB a save stay for good. As text, in Prometheus' format, they do not.
"""

from collections.abc import Iterable
from typing import Any

import tensorstore as ts
from orbax.checkpoint._src.serialization import tensorstore_utils

_ORBAX = 'get_tensorstore_raw_bytes'
# What is replaced; None where another version of Orbax has no such function.
orbax_raw_bytes = getattr(tensorstore_utils, _ORBAX, None)
_PREFIX = '/tensorstore/kvstore/'
_WRITE = 'write'


def read_as_text() -> bool:
  """Has Orbax read the same numbers as text, in this process.

  Returns:
    Whether it does.
  """
  if orbax_raw_bytes is None:
    return False
  setattr(tensorstore_utils, _ORBAX, raw_bytes)
  return True


def raw_bytes(direction: Any = None) -> int:
  """Returns the bytes written or read by all drivers of this process.

  Args:
    direction: Orbax's `IoDirection`; None for written.
  """
  value = getattr(direction, 'value', _WRITE)
  suffix = '_bytes_written' if value == _WRITE else '_bytes_read'
  lines = ts.experimental_collect_prometheus_format_metrics(_PREFIX)
  return total(lines, suffix)


def total(lines: Iterable[str], suffix: str) -> int:
  """Returns the sum of the samples whose names end so.

  Args:
    lines: Prometheus' text format: `name{labels} value`, and comments.
    suffix: of the names to take.
  """
  found = 0
  for line in lines:
    name, _, value = line.rpartition(' ')
    if name.partition('{')[0].endswith(suffix) and not name.startswith('#'):
      found += int(float(value))
  return found
