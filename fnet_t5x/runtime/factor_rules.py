"""How Adafactor factors each parameter: rules by name and by logical axis.

A rule for one parameter is a tuple with one `FactorDim` a dimension, or
`HEURISTIC_RULE` (the two largest dimensions), or None (not factored).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.core
import numpy as np
from flax import serialization, traverse_util


class FactorDim(enum.Enum):
  """The part that one dimension plays in the factored second moment."""

  NONE = None  # not factored
  BATCH = 1  # several parameters stacked: never averaged over
  ROW = 2
  COLUMN = 3


class HeuristicRule(enum.Enum):
  """A type of its own for the rule 'factor the two largest dimensions'."""

  token = 1


HEURISTIC_RULE = HeuristicRule.token
FactorRule = HeuristicRule | tuple[FactorDim, ...] | None
Dims = tuple[int, ...]

_DIM_OF_NAME = {
  'row': FactorDim.ROW,
  'col': FactorDim.COLUMN,
  'column': FactorDim.COLUMN,
  'batch': FactorDim.BATCH,
  'none': FactorDim.NONE,
  'unfactorized': FactorDim.NONE,
}


def standard_logical_factor_rules() -> Mapping[str, FactorDim]:
  """Returns the part of every logical axis of T5X's and our networks."""
  columns = (
    'vocab',
    'heads',
    'kv',
    'joined_kv',
    'mlp',
    'mlp_activations',
    'q_wi_fused',
    'o_wo_fused',
    'kv_fused',
    'multiquery_heads',
  )
  unfactored = (
    'relpos_buckets',
    'abspos_buckets',
    'layer_norm_scale',
    'length',
  )
  return flax.core.freeze(
    {'embed': FactorDim.ROW}
    | dict.fromkeys(columns, FactorDim.COLUMN)
    | dict.fromkeys(unfactored, FactorDim.NONE)
    | dict.fromkeys(('layers', 'stack'), FactorDim.BATCH)
  )


def factor_name_to_factordim(name: str | FactorDim) -> FactorDim:
  """Returns the `FactorDim` that a gin file means by 'row', 'col', ..."""
  if not isinstance(name, str):
    return name
  if name.lower() not in _DIM_OF_NAME:
    raise ValueError(
      f'unknown Adafactor factor rule {name!r}: use one of '
      f'{", ".join(_DIM_OF_NAME)}'
    )
  return _DIM_OF_NAME[name.lower()]


def rule_from_axes(
  path: str, axes: Sequence[str], rules: Mapping[str, FactorDim | str]
) -> tuple[FactorDim, ...]:
  """Returns the rule of the parameter `path` from its logical axes.

  Without both a row and a column there is nothing to factor: only BATCH
  remains then.

  Raises:
    ValueError: an axis has no rule, or a factored parameter has a dimension
      that is neither row nor column nor batch.
  """
  unknown = [axis for axis in axes if axis not in rules]
  if unknown:
    raise ValueError(
      f'parameter {path!r} has the axis {unknown[0]!r}, which '
      'Adafactor.logical_factor_rules does not know: add it (row, column, '
      'batch or none)'
    )
  dims = tuple(factor_name_to_factordim(rules[axis]) for axis in axes)
  present = set(dims)
  if not {FactorDim.ROW, FactorDim.COLUMN} <= present:
    return tuple(
      dim if dim is FactorDim.BATCH else FactorDim.NONE for dim in dims
    )
  if FactorDim.NONE in present:
    raise ValueError(
      f'parameter {path!r} with axes {tuple(axes)} would be factored but for '
      f'axis {axes[dims.index(FactorDim.NONE)]!r}: give that axis the rule '
      'row, column or batch'
    )
  return dims


class Layout(NamedTuple):
  """How one parameter is averaged, and factored (both None: it is not)."""

  averaged: Dims
  rows: Dims | None
  columns: Dims | None


def layout(
  path: str, shape: Dims, rule: FactorRule, min_dim_size_to_factor: int
) -> Layout:
  """Returns how the parameter `path` is treated under `rule`.

  With rank 2 or less and no BATCH dimension the heuristic holds whatever the
  rule says: rows are the shorter dimension.

  Raises:
    ValueError: rank 3 or more with the heuristic, or a rule of another rank.
  """
  rank = len(shape)
  everything = tuple(range(rank))
  if rule is None:
    return Layout(everything, None, None)
  if rule is not HEURISTIC_RULE and len(rule) != rank:
    raise ValueError(
      f'the factor rule {rule} for parameter {path!r} has {len(rule)} '
      f'dimensions, its shape {tuple(shape)} has {rank}'
    )
  if rule is HEURISTIC_RULE and rank > 2:
    raise ValueError(
      f'parameter {path!r} of shape {tuple(shape)} has rank {rank}: Adafactor '
      'needs a factor rule for it (logical_factor_rules or factor_map)'
    )
  if rule is HEURISTIC_RULE or (rank <= 2 and FactorDim.BATCH not in rule):
    if rank < 2 or min(shape) < min_dim_size_to_factor:
      return Layout(everything, None, None)
    row, column = (int(i) for i in np.argsort(shape, stable=True))
    return Layout(everything, (row,), (column,))

  def dims(kind):
    return tuple(i for i, dim in enumerate(rule) if dim is kind)

  averaged = tuple(i for i in everything if rule[i] is not FactorDim.BATCH)
  rows, columns = dims(FactorDim.ROW), dims(FactorDim.COLUMN)
  if not rows and not columns:
    return Layout(averaged, None, None)
  return Layout(averaged, rows, columns)


class HParamMap:
  """A value by parameter name: the first regular expression found in it."""

  def __init__(self, rules: Sequence[tuple[str, Any]]):
    self._rules = [(re.compile(pattern), value) for pattern, value in rules]

  def __getitem__(self, key: str) -> Any:
    for pattern, value in self._rules:
      if pattern.search(key):
        return value
    raise KeyError(f'no rule matches the parameter {key!r}')

  def __call__(self, params: Any) -> Any:
    """Returns the tree of `params` with each leaf replaced by its value."""
    names = traverse_util.flatten_dict(
      serialization.to_state_dict(params), sep='/'
    )
    values = {name: self[name] for name in names}
    return serialization.from_state_dict(
      params, traverse_util.unflatten_dict(values, sep='/')
    )
