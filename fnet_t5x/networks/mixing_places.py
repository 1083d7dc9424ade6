"""Places of attention in a stack of layers with another mixing."""

from typing import Literal

from fnet_t5x.choices import check_choice

Layout = Literal['top', 'bottom', 'middle', 'mixed']


def attention_places(
  layers: int, attending: int, layout: Layout
) -> frozenset[int]:
  """Returns the indices of the layers that attend; see `mixing_layout`.

  Args:
    layers: depth of the stack.
    attending: number of layers with attention.
    layout: their place.

  Raises:
    ValueError: for an unknown layout, or more attention layers than layers.
  """
  check_choice('layout', layout, Layout)
  if not 0 <= attending <= layers:
    raise ValueError(
      f'mixing layout: num_attention_layers={attending} does not fit {layers} '
      f'layers; choose from 0 to {layers}'
    )
  if layout == 'mixed':
    return frozenset(range(0, layers, layers // attending) if attending else ())
  first = {
    'bottom': 0,
    'middle': (layers - attending + 1) // 2,  # as published, if odd
    'top': layers - attending,
  }[layout]
  return frozenset(range(first, first + attending))
