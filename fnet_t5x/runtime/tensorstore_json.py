"""Workaround for a memory leak in TensorStore's conversion of JSON.

TensorStore 0.1.86 converts JSON into dictionaries with one reference too many
to every key and value (`JsonToPyObject` in its
`python/tensorstore/json_type_caster.cc`), so they are never freed. Orbax
requests such dictionaries twice per save and restore for `jax.monitoring`, and
once per array, with the same content for all arrays.
"""

import copy
import inspect
from collections.abc import Iterable
from typing import Any

import tensorstore as ts
from orbax.checkpoint._src.serialization import tensorstore_utils

_RAW_BYTES = 'get_tensorstore_raw_bytes'
_PREFIX = '/tensorstore/kvstore/'
_WRITE = 'write'
_MAX_SPECS = 16
# The original functions; None if this version of Orbax has no such function.
orbax_raw_bytes = getattr(tensorstore_utils, _RAW_BYTES, None)
spec_to_json = inspect.getattr_static(ts.KvStore.Spec, 'to_json')
_specs: dict[str, Any] = {}


def avoid_leaks() -> None:
  """Replaces the leaking calls in this process by equivalent ones."""
  if orbax_raw_bytes is not None:
    setattr(tensorstore_utils, _RAW_BYTES, raw_bytes)
  ts.KvStore.Spec.to_json = remembered_json


def raw_bytes(direction: Any = None) -> int:
  """Returns the bytes written or read by all drivers of this process.

  They are read in Prometheus' text format, which does not leak.

  Args:
    direction: Orbax's `IoDirection`; None for bytes written.
  """
  value = getattr(direction, 'value', _WRITE)
  suffix = '_bytes_written' if value == _WRITE else '_bytes_read'
  lines = ts.experimental_collect_prometheus_format_metrics(_PREFIX)
  return total(lines, suffix)


def total(lines: Iterable[str], suffix: str) -> int:
  """Returns the sum of the samples whose names end in `suffix`.

  Args:
    lines: Prometheus' text format: `name{labels} value`, and comments.
    suffix: of the names to include.
  """
  found = 0
  for line in lines:
    name, _, value = line.rpartition(' ')
    if name.partition('{')[0].endswith(suffix) and not name.startswith('#'):
      found += int(float(value))
  return found


def remembered_json(spec: ts.KvStore.Spec, *args: Any, **kwargs: Any) -> Any:
  """Returns `spec.to_json(...)`, cached for recent equal specs."""
  if args or kwargs:
    return spec_to_json(spec, *args, **kwargs)
  # The repr holds the complete JSON.
  key = repr(spec)
  found = _specs.get(key)
  if found is None:
    if len(_specs) >= _MAX_SPECS:
      _specs.clear()
    found = _specs[key] = spec_to_json(spec)
  return copy.deepcopy(found)
