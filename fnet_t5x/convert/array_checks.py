"""Checks of a network's parameters: names, shapes and values."""

from collections.abc import Container, Iterable, Mapping

import numpy as np

Shapes = Mapping[str, tuple[int, ...]]


def check(arrays: Mapping[str, np.ndarray], wanted: Shapes) -> None:
  """Checks arrays by name.

  Args:
    arrays: floating-point arrays.
    wanted: the shape of each.

  Raises:
    ValueError: names the first array that is missing, unknown, of a wrong
      shape, or not finite, and the number of others.
  """
  shapes = {name: tuple(x.shape) for name, x in arrays.items()}
  raise_first(
    [
      *(f'it lacks {name}' for name in wanted if name not in shapes),
      *(f'{name} is unknown' for name in shapes if name not in wanted),
      *(
        f'{name} is {list(shapes[name])}, not {list(shape)}'
        for name, shape in wanted.items()
        if shapes.get(name, shape) != shape
      ),
    ]
  )
  raise_first(
    f'{name} holds NaN or infinity'
    for name, x in arrays.items()
    if not np.isfinite(x).all()
  )


def layers_without(
  arrays: Container[str], template: str, layers: int
) -> list[int]:
  """Returns the layers that lack an array.

  Args:
    arrays: the names that there are.
    template: the array's name, with {} for the layer.
    layers: number of layers.
  """
  return [i for i in range(layers) if template.format(i) not in arrays]


def raise_first(problems: Iterable[str]) -> None:
  """Raises a ValueError with the first problem and the number of others."""
  problems = list(problems)
  if problems:
    others = f' ({len(problems) - 1} more)' if len(problems) > 1 else ''
    raise ValueError(f'{problems[0]}{others}')
