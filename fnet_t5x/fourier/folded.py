"""Ragged transforms by folded matrices, of half of each row's length.

In a transform over L tokens, cos(2 pi n m / L) is the same for m and L - m, and
for n and L - n; the sine changes sign. So inputs m and L - m are added (for the
cosines) or subtracted (for the sines), and outputs are computed only for
n <= L / 2: a quarter of the multiplications, and matrices of a quarter of the
size.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fnet_t5x.fourier import half_spectrum
from fnet_t5x.fourier.dft_matrix import reduced_angles
from fnet_t5x.fourier.precision import matmul

Columns = Float[Array, 'batch length columns']


def make_folded_matrices(
  lengths: Int[Array, ' batch'], length: int
) -> Float[Array, 'batch 2 half half']:
  """Returns cos and sin of 2 pi n m / L for n, m <= L / 2; zero elsewhere.

  Where m is its own mirror image, 0 or L / 2, the cosine is halved, since
  folding adds that token to itself. All layers share the result.

  Args:
    lengths: number of real tokens L per row, 0 <= L <= length.
    length: tokens per row, padding included; half is length // 2 + 1.
  """
  index = jnp.arange(length // 2 + 1, dtype=jnp.int32)[None, :]
  period = jnp.maximum(lengths, 1)[:, None, None]
  products = index[:, :, None] * index[:, None, :]
  angles = reduced_angles(products, period)
  inside = (2 * index <= lengths[:, None]) & (index < lengths[:, None])
  both = inside[:, :, None] & inside[:, None, :]
  own_mirror = (index == 0) | (2 * index == lengths[:, None])
  weights = jnp.where(own_mirror, 0.5, 1.0)[:, None, :]
  cosine = jnp.where(both, jnp.cos(angles) * weights, 0)
  sine = jnp.where(both, jnp.sin(angles), 0)
  return jnp.stack([cosine, sine], axis=1)


def folded_real(
  a: Columns,
  b: Columns,
  matrices: Float[Array, 'batch 2 half half'],
  lengths: Int[Array, ' batch'],
) -> tuple[Columns, Columns]:
  """Returns Re(F_L (a - i b)) and Re(F_L (a + i b)) of each column.

  On padding both are zero; finite values of a and b there have no effect.

  Args:
    a: real parts.
    b: negated imaginary parts.
    matrices: of `make_folded_matrices`, scaled or not.
    lengths: L of each row.
  """
  tokens, half = a.shape[1], matrices.shape[-1]
  real = jnp.arange(tokens)[None, :] < lengths[:, None]
  a, b = (jnp.where(real[:, :, None], x, 0) for x in (a, b))
  sums = (a + half_spectrum.reverse_modulo(a, lengths))[:, :half]
  differences = (b - half_spectrum.reverse_modulo(b, lengths))[:, :half]
  even = matmul('bnm,bmk->bnk', matrices[:, 0], sums)
  odd = matmul('bnm,bmk->bnk', matrices[:, 1], differences)
  return (
    _unfold(even - odd, even + odd, tokens, lengths),
    _unfold(even + odd, even - odd, tokens, lengths),
  )


def folded_hartley(
  a: Columns,
  b: Columns,
  matrices: Float[Array, 'batch 2 half half'],
  lengths: Int[Array, ' batch'],
) -> tuple[Columns, Columns]:
  """Returns Re - Im of F_L (a - i b) and of F_L (a + i b), for each column.

  Re - Im of F_L z is Re F_L ((1 + i) z); twice the products of `folded_real`,
  whose arguments these are, since the two results are not each other's mirror
  images.
  """
  y, _ = folded_real(
    jnp.concatenate([a + b, a - b], axis=2),
    jnp.concatenate([b - a, -a - b], axis=2),
    matrices,
    lengths,
  )
  return tuple(jnp.split(y, 2, axis=2))


def _unfold(first, mirrored, tokens, lengths):
  """Joins tokens 0 .. L / 2 with the mirrored ones, without 0 and L / 2."""
  index = jnp.arange(first.shape[1])[None, :]
  between = (index > 0) & (2 * index < lengths[:, None])
  mirrored = jnp.where(between[:, :, None], mirrored, 0)
  edges = ((0, 0), (0, tokens - first.shape[1]), (0, 0))
  first, mirrored = jnp.pad(first, edges), jnp.pad(mirrored, edges)
  return first + half_spectrum.reverse_modulo(mirrored, lengths)
