"""Conversion of a train state between scanned and unscanned layers.

A state is a checkpoint's content, flattened: arrays by name, `target/...` for
parameters, `state/...` for the optimizer.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fnet_t5x.convert import moments as moments_lib
from fnet_t5x.convert import stacks

Leaves = Mapping[str, np.ndarray]

TARGET = 'target'
# Trees with the parameters' structure: parameters, momentum, Adafactor states.
_IN_TREE = re.compile(r'(?:(.*?)/)?((?:encoder|decoder)/.+)')


class Conversion(NamedTuple):
  """A converted state.

  Attributes:
    leaves: arrays by name.
    refactored: number of Adafactor states that are factored in only one of the
      layouts, and were averaged or estimated.
    own_biases: whether the unscanned layers need `relpos_bias_per_layer`.
  """

  leaves: dict[str, np.ndarray]
  refactored: int
  own_biases: bool


def is_scanned(leaves: Mapping[str, Any]) -> bool:
  """Returns whether a state has scanned layers.

  Raises:
    ValueError: not a state of one of our networks.
  """
  prefix = f'{TARGET}/'
  return stacks.are_scanned(
    [n.removeprefix(prefix) for n in leaves if n.startswith(prefix)]
  )


def to_scanned(leaves: Leaves) -> Conversion:
  """Converts a state to scanned layers."""
  trees, rest = _trees(leaves)
  shapes = {name: x.shape for name, x in trees[TARGET].items()}
  factored = all(
    x['v'].shape == (1,)
    for name, x in _adafactor_states(trees)
    if moments_lib.is_factored(shapes[name])
  )
  refactored = 0
  for stacked in stacks.find_stacks(shapes):
    shape = shapes[stacked.layers[0]]
    for tree in trees.values():
      parts = [tree[name] for name in stacked.layers]
      if isinstance(parts[0], Mapping):
        converted = moments_lib.stack(stacked, parts, shape, factored)
        refactored += _kind(converted) != _kind(parts[0])
      else:
        converted = stacked.stack(parts)
      tree[stacked.scanned] = converted
  for tree in trees.values():
    for name in [n for n in tree if _is_unscanned(n)]:
      del tree[name]
  return Conversion(_flat(trees, rest), refactored, False)


def to_unscanned(leaves: Leaves) -> Conversion:
  """Converts a state to unscanned layers.

  Layers share one table of position biases, as T5's do, if those of the encoder
  and those of the decoder are all equal; otherwise each layer keeps its own.
  """
  trees, rest = _trees(leaves)
  shapes = {name: x.shape for name, x in trees[TARGET].items()}
  share_biases = all(
    stacks.have_equal_biases(arrays)
    for tree in trees.values()
    for arrays in _arrays(tree)
  )
  found = stacks.find_layers(shapes, share_biases)
  factored = all(
    x['v'].shape == (1,)
    for name, x in _adafactor_states(trees)
    if name in {s.scanned for s in found if s.rows_first is not None}
  )
  refactored = 0
  for stacked in found:
    parameter = trees[TARGET][stacked.scanned]
    shape = stacked.unstack(parameter)[0].shape
    for tree in trees.values():
      value = tree.pop(stacked.scanned)
      if isinstance(value, Mapping):
        layers = moments_lib.unstack(stacked, value, shape, factored)
        refactored += _kind(value) != _kind(layers[0])
      else:
        layers = stacked.unstack(value)
      tree.update(zip(stacked.layers, layers, strict=True))
  return Conversion(_flat(trees, rest), refactored, not share_biases)


def _trees(leaves):
  """Splits a state into trees by prefix, and the remaining leaves."""
  trees: dict[str, dict[str, Any]] = {}
  rest = {}
  for name, value in leaves.items():
    match = _IN_TREE.fullmatch(name)
    if not match:
      rest[name] = value
      continue
    prefix, path = match[1] or '', match[2]
    parent, _, last = path.rpartition('/')
    if last in moments_lib.SUFFIXES:
      trees.setdefault(prefix, {}).setdefault(parent, {})[last] = value
    else:
      trees.setdefault(prefix, {})[path] = value
  return trees, rest


def _flat(trees, rest):
  leaves = dict(rest)
  for prefix, tree in trees.items():
    for path, value in tree.items():
      name = f'{prefix}/{path}'
      if isinstance(value, Mapping):
        leaves |= {f'{name}/{last}': x for last, x in value.items()}
      else:
        leaves[name] = value
  return leaves


def _arrays(tree):
  """Yields the arrays of a tree by parameter, for each kind of moment."""
  yield {n: x for n, x in tree.items() if not isinstance(x, Mapping)}
  states = {n: x for n, x in tree.items() if isinstance(x, Mapping)}
  for kept in ('v', 'm'):
    yield {n: x[kept] for n, x in states.items() if x[kept].shape != (1,)}


def _adafactor_states(trees):
  for tree in trees.values():
    yield from ((n, x) for n, x in tree.items() if isinstance(x, Mapping))


def _kind(states):
  return states['v'].shape == (1,)


def _is_unscanned(name):
  return bool(re.match(r'\w+/(layers_\d+|relpos_bias)/', name))
