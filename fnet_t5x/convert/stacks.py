"""Correspondence between parameters of scanned and of unscanned layers.

Names and shapes are those of `networks/layer_stack.py`.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from fnet_t5x.networks.layer_stack import SCAN_AXIS, runs

Shapes = Mapping[str, tuple[int, ...]]

_SIDES = ('encoder', 'decoder')
_LAYER = re.compile(r'(encoder|decoder)/layers_(\d+)/(.+)')
_STACKED = re.compile(r'(encoder|decoder)/(\1(?:_(\d+))?)/(.+)')
_BIAS = 'relpos_bias/rel_embedding'
_ATTENTION = re.compile('(self_)?attention/')
_FILTERS = '/filters/lags'
_QUERY = 'encoder_decoder_attention/query/kernel'


@dataclasses.dataclass(frozen=True)
class Stacked:
  """A parameter of scanned layers, and its unscanned counterparts.

  Attributes:
    scanned: name of the scanned parameter.
    layers: names of the unscanned parameters, one per layer; all equal for
      position biases that the layers share.
    heads: number of attention heads; scanned attention kernels have a separate
      heads axis.
  """

  scanned: str
  layers: tuple[str, ...]
  heads: int

  @property
  def rows_first(self) -> bool | None:
    """Whether embed is a kernel's first axis; None if not a kernel.

    Adafactor factors scanned kernels into embed and the rest.
    """
    parent, _, leaf = self.scanned.rpartition('/')
    if leaf != 'kernel':
      return None
    return parent.rpartition('/')[2] not in ('out', 'wo')

  def split(self, matrix: np.ndarray) -> np.ndarray:
    """Returns a layer's parameter with separate heads and kv axes."""
    owner = self.scanned.split('/')[-2]
    if owner in ('query', 'key', 'value'):
      return matrix.reshape(matrix.shape[0], self.heads, -1)
    if owner == 'out':
      return matrix.reshape(self.heads, -1, matrix.shape[-1])
    return matrix

  def join(self, kernel: np.ndarray) -> np.ndarray:
    """Returns a layer's parameter with heads and kv joined."""
    if kernel.ndim < 3:
      return kernel
    if self.rows_first:
      return kernel.reshape(kernel.shape[0], -1)
    return kernel.reshape(-1, kernel.shape[-1])

  def stack(self, layers: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks the layers' parameters to the scanned one."""
    return np.stack([self.split(x) for x in layers], SCAN_AXIS)

  def unstack(self, stacked: np.ndarray) -> list[np.ndarray]:
    """Splits the scanned parameter into the layers' ones."""
    return [self.join(x) for x in np.moveaxis(stacked, SCAN_AXIS, 0)]


def are_scanned(names: Sequence[str]) -> bool:
  """Returns whether a network's parameters are those of scanned layers.

  Raises:
    ValueError: they are neither scanned nor unscanned ones.
  """
  scanned = any(map(_STACKED.fullmatch, names))
  if scanned == any(map(_LAYER.fullmatch, names)):
    raise ValueError(
      'its parameters are not those of T5 or FNet-T5: expected '
      'decoder/layers_0/... (unscanned) or decoder/decoder/... (scanned)'
    )
  return scanned


def find_stacks(shapes: Shapes) -> list[Stacked]:
  """Returns the scanned parameters that correspond to unscanned ones.

  Args:
    shapes: shapes of all unscanned parameters, by name.

  Raises:
    ValueError: layer numbers have gaps.
  """
  heads = _heads(shapes)
  found = []
  for side in _SIDES:
    layers: dict[int, set[str]] = {}
    for name in shapes:
      if (match := _LAYER.fullmatch(name)) and match[1] == side:
        layers.setdefault(int(match[2]), set()).add(match[3])
    if sorted(layers) != list(range(len(layers))):
      raise ValueError(f'its {side} has only the layers {sorted(layers)}')
    first = 0
    kinds = [
      frozenset((name, shapes[f'{side}/layers_{i}/{name}']) for name in names)
      for i, names in sorted(layers.items())
    ]
    for stack, kind, count in runs(kinds, side):
      names = sorted(name for name, _ in kind)
      found += [
        Stacked(
          f'{side}/{stack}/{name}',
          tuple(f'{side}/layers_{first + i}/{name}' for i in range(count)),
          heads,
        )
        for name in names
      ]
      shared = f'{side}/{_BIAS}'
      # Cross-attention has none.
      if shared in shapes and any(_ATTENTION.match(name) for name in names):
        found.append(
          Stacked(f'{side}/{stack}/{_BIAS}', (shared,) * count, heads)
        )
      first += count
  return found


def find_layers(shapes: Shapes, share_biases: bool) -> list[Stacked]:
  """Returns the unscanned parameters that correspond to scanned ones.

  Args:
    shapes: shapes of all scanned parameters, by name.
    share_biases: whether the layers of a side are to share position biases.
  """
  heads = _heads(shapes)
  found = []
  for side in _SIDES:
    stacks: dict[tuple[int, str], dict[str, str]] = {}
    for name in shapes:
      if (match := _STACKED.fullmatch(name)) and match[1] == side:
        key = (int(match[3] or 0), match[2])
        stacks.setdefault(key, {})[match[4]] = name
    first = 0
    for (_, _), names in sorted(stacks.items()):
      count = shapes[next(iter(names.values()))][SCAN_AXIS]
      numbers = range(first, first + count)
      for rest, scanned in names.items():
        layers = tuple(f'{side}/layers_{i}/{rest}' for i in numbers)
        if rest == _BIAS and share_biases:
          layers = (f'{side}/{_BIAS}',) * count
        found.append(Stacked(scanned, layers, heads))
      first += count
  return found


def have_equal_biases(arrays: Mapping[str, np.ndarray]) -> bool:
  """Returns whether all layers of a side have bitwise equal position biases.

  Args:
    arrays: scanned parameters, or their moments, by name; those other than
      position biases are ignored.
  """
  for side in _SIDES:
    layers = [
      layer
      for name, value in arrays.items()
      if name.startswith(f'{side}/{side}') and name.endswith(f'/{_BIAS}')
      for layer in np.moveaxis(value, SCAN_AXIS, 0)
    ]
    if any(not np.array_equal(layers[0], x) for x in layers[1:]):
      return False
  return True


def _heads(shapes: Shapes) -> int:
  """Returns the number of heads, which joined kernels do not reveal."""
  for name, shape in shapes.items():
    if name.endswith(_BIAS) or name.endswith(_FILTERS):
      return shape[0]
    if name.endswith(_QUERY) and len(shape) == 4:  # Of scanned layers.
      return shape[2]
  raise ValueError(
    'its parameters are not those of T5 or FNet-T5: there is no relpos_bias, '
    'which has the number of heads'
  )
