"""Which parameters of scanned layers hold which of layers one by one.

The names and shapes of both are those of `networks/layer_stack.py`.
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


@dataclasses.dataclass(frozen=True)
class Stacked:
  """One parameter of scanned layers, and where it is when they are not.

  Attributes:
    scanned: its name.
    layers: its names, one a layer. All the same for position biases that the
      layers share.
    heads: size of the axis that scanned attention kernels keep apart.
  """

  scanned: str
  layers: tuple[str, ...]
  heads: int

  @property
  def rows_first(self) -> bool | None:
    """Whether embed is a kernel's first axis; None if it is no kernel.

    Adafactor factors a scanned layer's kernel between embed and the rest.
    """
    parent, _, leaf = self.scanned.rpartition('/')
    if leaf != 'kernel':
      return None
    return parent.rpartition('/')[2] not in ('out', 'wo')

  def split(self, matrix: np.ndarray) -> np.ndarray:
    """Returns a layer's parameter with heads and kv apart."""
    owner = self.scanned.split('/')[-2]
    if owner in ('query', 'key', 'value'):
      return matrix.reshape(matrix.shape[0], self.heads, -1)
    if owner == 'out':
      return matrix.reshape(self.heads, -1, matrix.shape[-1])
    return matrix

  def join(self, kernel: np.ndarray) -> np.ndarray:
    """Returns a scanned layer's parameter with heads and kv as one axis."""
    if kernel.ndim < 3:
      return kernel
    if self.rows_first:
      return kernel.reshape(kernel.shape[0], -1)
    return kernel.reshape(-1, kernel.shape[-1])

  def stack(self, layers: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the scanned parameter."""
    return np.stack([self.split(x) for x in layers], SCAN_AXIS)

  def unstack(self, stacked: np.ndarray) -> list[np.ndarray]:
    """Returns each layer's parameter."""
    return [self.join(x) for x in np.moveaxis(stacked, SCAN_AXIS, 0)]


def are_scanned(names: Sequence[str]) -> bool:
  """Whether a network's parameters are those of scanned layers.

  Raises:
    ValueError: they are those of neither.
  """
  scanned = any(map(_STACKED.fullmatch, names))
  if scanned == any(map(_LAYER.fullmatch, names)):
    raise ValueError(
      'its parameters are not those of T5 or FNet-T5: expected '
      'decoder/layers_0/... or, scanned, decoder/decoder/...'
    )
  return scanned


def find_stacks(shapes: Shapes) -> list[Stacked]:
  """Returns what scanning makes of a network's layers.

  Args:
    shapes: of all its parameters, which are not scanned.

  Raises:
    ValueError: a layer's number is missing.
  """
  heads = _heads(shapes)
  found = []
  for side in _SIDES:
    layers: dict[int, set[str]] = {}
    for name in shapes:
      if (match := _LAYER.fullmatch(name)) and match[1] == side:
        layers.setdefault(int(match[2]), set()).add(match[3])
    if sorted(layers) != list(range(len(layers))):
      raise ValueError(f'its {side} has the layers {sorted(layers)} only')
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
      if shared in shapes and any('attention/' in name for name in names):
        found.append(
          Stacked(f'{side}/{stack}/{_BIAS}', (shared,) * count, heads)
        )
      first += count
  return found


def find_layers(shapes: Shapes, share_biases: bool) -> list[Stacked]:
  """Returns what scanned layers are one by one.

  Args:
    shapes: of all parameters, which are scanned.
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
  """Whether the layers of each side have bitwise the same position biases.

  Args:
    arrays: scanned parameters, or what belongs to them, by name; those that are
      no position biases are not looked at.
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
  """The number of attention heads, which no joined kernel tells."""
  for name, shape in shapes.items():
    if name.endswith(_BIAS):
      return shape[0]
  raise ValueError(
    'its parameters are not those of T5 or FNet-T5: no relpos_bias tells the '
    'number of heads'
  )
