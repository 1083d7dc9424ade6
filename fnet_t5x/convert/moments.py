"""Adafactor's second moments, converted between scanned and unscanned layers.

With T5X's factor rules, a scanned kernel is always factored, with embed as
rows; an unscanned kernel, of rank 2, only if both sides are at least 128, with
the shorter side as rows (`runtime/adafactor.py`). If both or neither are
factored, the numbers are the same. Otherwise:

- a moment V is factored into its row and column means, which are what Adafactor
  would have kept, since means commute with its moving average;
- row and column means r and c expand to V = r c^T / mean(r), by whose root
  Adafactor divides the next gradient.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from fnet_t5x.convert.stacks import Stacked

# Adafactor's `min_dim_size_to_factor`.
MIN_SIZE = 128
SUFFIXES = ('v_row', 'v_col', 'v', 'm')

Moments = Mapping[str, np.ndarray]
Shape = tuple[int, ...]


def unused() -> np.ndarray:
  """Returns the placeholder of a moment that is not kept."""
  return np.zeros((1,), np.float32)


def stack(
  stacked: Stacked, layers: Sequence[Moments], shape: Shape, factored: bool
) -> dict[str, np.ndarray]:
  """Returns the moments of a scanned parameter.

  Args:
    stacked: the parameter.
    layers: moments of each layer.
    shape: shape of one layer's unscanned parameter.
    factored: whether Adafactor factors.
  """
  result = {'m': unused()} | dict.fromkeys(('v_row', 'v_col', 'v'), unused())
  if layers[0]['m'].shape == shape:
    result['m'] = stacked.stack([x['m'] for x in layers])
  if stacked.rows_first is None or not factored:
    result['v'] = stacked.stack([_whole(x, shape) for x in layers])
    return result
  by_axis = [_means(x, shape) for x in layers]
  embed, other = (0, 1) if stacked.rows_first else (1, 0)
  for name, axis in (('v_row', embed), ('v_col', other)):
    parts = [x[axis] for x in by_axis]
    # The layers axis comes after the kernel's first axis, if that is kept.
    place = 1 if axis == 0 else 0
    if axis == other and _is_split(stacked):
      parts = [x.reshape(stacked.heads, -1) for x in parts]
    result[name] = np.stack(parts, place)
  return result


def unstack(
  stacked: Stacked, moments: Moments, shape: Shape, factored: bool
) -> list[dict[str, np.ndarray]]:
  """Returns each layer's moments.

  Args:
    stacked: the parameter.
    moments: moments of the scanned parameter.
    shape: shape of one layer's unscanned parameter.
    factored: whether Adafactor factors.
  """
  count = len(stacked.layers)
  momenta = [unused() for _ in range(count)]
  if moments['m'].shape != (1,):
    momenta = stacked.unstack(moments['m'])
  if moments['v'].shape != (1,):
    kept = [{'v': v} for v in stacked.unstack(moments['v'])]
  else:
    embed, other = (0, 1) if stacked.rows_first else (1, 0)
    vectors = {}
    for name, axis in (('v_row', embed), ('v_col', other)):
      layers = np.moveaxis(moments[name], 1 if axis == 0 else 0, 0)
      vectors[axis] = layers.reshape(count, -1)
    kept = [{0: vectors[0][i], 1: vectors[1][i]} for i in range(count)]
  return [
    _one(each, momentum, shape, factored)
    for each, momentum in zip(kept, momenta, strict=True)
  ]


def is_factored(shape: Shape) -> bool:
  """Returns whether Adafactor factors an unscanned parameter."""
  return len(shape) == 2 and min(shape) >= MIN_SIZE


def _one(kept, momentum, shape, factored):
  result = {'m': momentum} | dict.fromkeys(('v_row', 'v_col', 'v'), unused())
  if not (factored and is_factored(shape)):
    return result | {'v': _whole(kept, shape)}
  means = kept if 0 in kept else _means(kept, shape)
  row = _row_axis(shape)
  return result | {'v_row': means[row], 'v_col': means[1 - row]}


def _row_axis(shape):
  return int(np.argsort(shape, kind='stable')[0])


def _means(moments, shape):
  """Returns the means of a layer's second moment along each axis."""
  if 'v_row' in moments and moments['v_row'].shape != (1,):
    row = _row_axis(shape)
    return {row: moments['v_row'], 1 - row: moments['v_col']}
  return {0: moments['v'].mean(1), 1: moments['v'].mean(0)}


def _whole(moments, shape):
  if 'v' in moments and moments['v'].shape == shape:
    return moments['v']
  means = moments if 0 in moments else _means(moments, shape)
  return np.outer(means[0], means[1]) / means[0].mean()


def _is_split(stacked):
  return stacked.scanned.split('/')[-2] in ('query', 'key', 'value', 'out')
