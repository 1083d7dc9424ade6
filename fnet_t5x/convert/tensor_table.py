"""Correspondence between our parameters and another library's tensors."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fnet_t5x.convert import array_checks


class Row(NamedTuple):
  """A tensor, and our parameters that it consists of.

  Attributes:
    theirs: the tensor's name; `{}` is the layer's number.
    ours: names of our parameters, which the tensor joins along our last axis.
    axes: names of the axes of each of ours.
    transposed: whether the tensor is transposed.
  """

  theirs: str
  ours: tuple[str, ...]
  axes: tuple[str, ...]
  transposed: bool = False

  def layer(self, number: int) -> 'Row':
    """Returns the row of one layer."""
    ours = tuple(name.format(number) for name in self.ours)
    return self._replace(theirs=self.theirs.format(number), ours=ours)


Sizes = Mapping[str, int]


def of_layers(rows: Iterable[Row], count: int) -> list[Row]:
  """Returns the rows, for each layer where they have a number."""
  result = []
  for row in rows:
    numbered = '{}' in row.theirs
    result += [row.layer(i) for i in range(count)] if numbered else [row]
  return result


def our_shapes(rows: Sequence[Row], sizes: Sizes) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of our parameters; `sizes` are those of the axes."""
  return {
    name: tuple(sizes[axis] for axis in row.axes)
    for row in rows
    for name in row.ours
  }


def their_shapes(
  rows: Sequence[Row], sizes: Sizes
) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of the tensors; `sizes` are those of the axes."""
  result = {}
  for row in rows:
    shape = [sizes[axis] for axis in row.axes]
    shape[-1] *= len(row.ours)
    result[row.theirs] = tuple(shape[::-1] if row.transposed else shape)
  return result


def to_ours(
  rows: Sequence[Row], sizes: Sizes, tensors: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Returns our parameters, by name.

  Raises:
    ValueError: see `array_checks.check`.
  """
  array_checks.check(tensors, their_shapes(rows, sizes))
  result = {}
  for row in rows:
    tensor = tensors[row.theirs]
    parts = np.split(tensor.T if row.transposed else tensor, len(row.ours), -1)
    result |= zip(row.ours, map(np.ascontiguousarray, parts), strict=True)
  return result


def to_theirs(
  rows: Sequence[Row], sizes: Sizes, arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Returns the tensors, by name.

  Raises:
    ValueError: see `array_checks.check`.
  """
  array_checks.check(arrays, our_shapes(rows, sizes))
  result = {}
  for row in rows:
    parts = [arrays[name] for name in row.ours]
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts, -1)
    result[row.theirs] = np.ascontiguousarray(
      joined.T if row.transposed else joined
    )
  return result
