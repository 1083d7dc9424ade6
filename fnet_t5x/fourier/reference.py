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


def mix_causal(
  x: Float[np.ndarray, 'batch length embed'],
  max_length: int,
  segment_ids: Int[np.ndarray, 'batch length'] | None = None,
) -> Float[np.ndarray, 'batch length embed']:
  """Mixes each token with those before it in its segment; see `causal.py`.

  Segments are runs of equal ids, 0 on padding, where the result is 0. None: a
  row is one segment.
  """
  if segment_ids is None:
    segment_ids = np.ones(x.shape[:2], np.int64)
  features = np.fft.fft(np.asarray(x, np.float64))
  y = np.zeros(x.shape, np.float64)
  for row, token in np.ndindex(*x.shape[:2]):
    segment = segment_ids[row, token]
    if segment:
      (where,) = np.nonzero(segment_ids[row, : token + 1] == segment)
      n = len(where) - 1
      products = n * np.arange(n + 1) % max_length
      weights = np.exp(-2j * np.pi * products / max_length)
      total = (weights @ features[row, where]).real
      y[row, token] = total / np.sqrt((n + 1) * x.shape[-1])
  return y
