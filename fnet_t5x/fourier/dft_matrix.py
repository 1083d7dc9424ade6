"""Cosine and sine matrices of the discrete Fourier transform.

Every phase 2 pi p q / n is reduced in integers: p q mod n is exact, so the
argument of the cosine is within half a turn and its rounding error does not
grow with p q.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Largest p whose square fits int32.
MAX_LENGTH = 46340


def reduced_angles(
  products: Int[Array, '...'], period: Int[Array, '...'] | int
) -> Float[Array, '...']:
  """Returns 2 pi (products mod period) / period, in [-pi, pi)."""
  turns = products % period
  # Centering halves the largest angle, and with it the rounding error.
  turns = jnp.where(2 * turns >= period, turns - period, turns)
  return turns.astype(jnp.float32) * (
    2 * np.pi / jnp.asarray(period, jnp.float32)
  )


def dft_matrices(
  rows: int, columns: int, period: int, dtype: jnp.dtype = jnp.float32
) -> tuple[Float[Array, 'rows columns'], Float[Array, 'rows columns']]:
  """Returns cos and sin of 2 pi i j / period for i < rows, j < columns.

  Args:
    rows: number of rows i.
    columns: number of columns j; period // 2 + 1 gives the half spectrum.
    period: the transform's length, at most `MAX_LENGTH`.
    dtype: of the result; the angles are float32.
  """
  if period > MAX_LENGTH:
    raise ValueError(
      f'dft_matrices: length {period} is above {MAX_LENGTH}; use the FFT'
    )
  i = jax.lax.broadcasted_iota(jnp.int32, (rows, columns), 0)
  j = jax.lax.broadcasted_iota(jnp.int32, (rows, columns), 1)
  angles = reduced_angles(i * j, period)
  return jnp.cos(angles).astype(dtype), jnp.sin(angles).astype(dtype)


def segment_lengths(
  segment_ids: Int[Array, 'batch length'],
) -> Int[Array, 'batch length']:
  """Returns for every token the number of tokens in its segment.

  Segment 0 is padding; its tokens get 0.
  """
  return jnp.sum(_same_segment(segment_ids), axis=-1, dtype=jnp.int32)


def _same_segment(segment_ids):
  real = segment_ids > 0
  return (segment_ids[:, :, None] == segment_ids[:, None, :]) & real[:, :, None]


def segment_dft_matrices(
  segment_ids: Int[Array, 'batch length'],
  positions: Int[Array, 'batch length'],
  dtype: jnp.dtype = jnp.float32,
) -> tuple[
  Float[Array, 'batch length length'], Float[Array, 'batch length length']
]:
  """Returns each segment's own cosine and sine matrices, zero elsewhere.

  Entry [b, n, m] is cos (sin) of 2 pi p_n p_m / L where tokens n and m of row b
  belong to the same segment of L tokens at positions p_n and p_m, and zero
  where they do not or where either is padding (segment 0). Both are symmetric.

  Cost: O(batch length^2), once per batch; all layers share the result.

  Args:
    segment_ids: 0 on padding; equal ids in a row are one segment.
    positions: position of each token within its segment, 0 <= position < L.
    dtype: of the result; the angles are float32.
  """
  same = _same_segment(segment_ids)
  period = jnp.maximum(segment_lengths(segment_ids), 1)[:, :, None]
  angles = reduced_angles(positions[:, :, None] * positions[:, None, :], period)
  cosine = jnp.where(same, jnp.cos(angles), 0).astype(dtype)
  sine = jnp.where(same, jnp.sin(angles), 0).astype(dtype)
  return cosine, sine
