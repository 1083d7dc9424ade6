"""Reference implementation for tests: the definitions in float64 NumPy."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from fnet_t5x.fourier.methods import Scale, Transform


def _angles(n: int) -> Float[np.ndarray, 'n n']:
  index = np.arange(n, dtype=np.int64)
  return 2 * np.pi * (np.outer(index, index) % n).astype(np.float64) / n


def mix_segment(
  x: Float[np.ndarray, 'length embed'],
  scale: Scale = 'ortho',
  transform: Transform = 'fourier',
) -> Float[np.ndarray, 'length embed']:
  """Returns Re(F_length x F_embed) of one sequence without padding.

  y = C x C' - S x S', with C and S the cosines and sines of both lengths: the
  real part of (C - iS) x (C' - iS'). For 'hartley', less the imaginary part,
  which is -(C x S' + S x C').
  """
  length, embed = x.shape
  x = np.asarray(x, np.float64)
  tokens, features = _angles(length), _angles(embed)
  y = np.cos(tokens) @ x @ np.cos(features)
  y -= np.sin(tokens) @ x @ np.sin(features)
  if transform == 'hartley':
    y += np.cos(tokens) @ x @ np.sin(features)
    y += np.sin(tokens) @ x @ np.cos(features)
  return y / np.sqrt(length * embed) if scale == 'ortho' else y


def mix_padded(
  x: Float[np.ndarray, 'batch length embed'],
  scale: Scale = 'ortho',
  transform: Transform = 'fourier',
) -> Float[np.ndarray, 'batch length embed']:
  """Mixes whole rows, padding included, as FNet does."""
  return np.stack([mix_segment(row, scale, transform) for row in x])


def mix_exact(
  x: Float[np.ndarray, 'batch length embed'],
  lengths: Sequence[int],
  scale: Scale = 'ortho',
  transform: Transform = 'fourier',
) -> Float[np.ndarray, 'batch length embed']:
  """Mixes the first lengths[b] tokens of row b; zero elsewhere."""
  y = np.zeros(x.shape, np.float64)
  for row, length in enumerate(lengths):
    if length:
      y[row, :length] = mix_segment(x[row, :length], scale, transform)
  return y


def mix_packed(
  x: Float[np.ndarray, 'batch length embed'],
  segment_ids: Int[np.ndarray, 'batch length'],
  positions: Int[np.ndarray, 'batch length'],
  scale: Scale = 'ortho',
  transform: Transform = 'fourier',
) -> Float[np.ndarray, 'batch length embed']:
  """Mixes every segment separately, in the order of its positions.

  Zero on padding (segment 0).
  """
  y = np.zeros(x.shape, np.float64)
  for row in range(x.shape[0]):
    for segment in np.unique(segment_ids[row]):
      if segment:
        (where,) = np.nonzero(segment_ids[row] == segment)
        where = where[np.argsort(positions[row, where])]
        y[row, where] = mix_segment(x[row, where], scale, transform)
  return y
