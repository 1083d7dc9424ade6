"""A shorter encoder output: its low frequencies over the tokens of an example.

An example of n tokens becomes k = max(1, n // rate): the first k coefficients
of its discrete cosine transform (DCT-II) over tokens, transformed back at k
points (Fourier Transformer, He et al. 2023, 2305.15099). Cross-attention and
its cache then shrink by `rate`. With a_j = (2j + 1) / 2k, b_m = (2m + 1) / 2n,

  y_j = (1 / n) sum over m of (D(a_j - b_m) + D(a_j + b_m)) x_m
  D(t) = 1/2 + sum over 0 < f < k of cos(pi f t)
       = (sin(pi k t) cot(pi t / 2) - cos(pi k t)) / 2      (Dirichlet's kernel)

so that every row is one matrix of closed form, [k, n], whose lines sum to 1:
constants are kept. Examples have matrices of their own, and padding and packing
change nothing. Plain equivalent: SciPy's `idct(dct(x, norm='ortho')[:k],
norm='ortho') * sqrt(k / n)`. It costs 2 k n embed FLOPs per example.
"""

import jax.numpy as jnp
from flax import struct
from flax.linen.partitioning import with_sharding_constraint
from jaxtyping import Array, Float, Int

from fnet_t5x.fourier.dft_matrix import segment_lengths


def output_length(length: int, rate: int, packed: bool) -> int:
  """Returns the length of shortened rows.

  Packed rows keep half of theirs whatever the rate: examples of fewer than
  `rate` tokens, which have at least one and EOS, keep one each.

  Args:
    length: of the rows.
    rate: tokens per token that is left.
    packed: whether rows hold several examples.
  """
  if rate == 1:
    return length
  return max(1, length // (2 if packed else rate))


@struct.dataclass
class Places:
  """Where the tokens of each example go.

  Attributes:
    segment_ids: id of the example that each token belongs to; 0 on padding.
    positions: of each token in its example.
    lengths: n, of each token's example.
    kept: k, of each token's example.
    first: place of its example's first shortened token.
    short_length: length of the shortened rows.
    packed: whether rows hold several examples.
  """

  segment_ids: Int[Array, 'batch length']
  positions: Int[Array, 'batch length']
  lengths: Int[Array, 'batch length']
  kept: Int[Array, 'batch length']
  first: Int[Array, 'batch length']
  short_length: int = struct.field(pytree_node=False)
  packed: bool = struct.field(pytree_node=False)


def make_places(
  segment_ids: Int[Array, 'batch length'],
  positions: Int[Array, 'batch length'] | None,
  rate: int,
) -> Places:
  """Returns where tokens go: examples follow one another, without gaps.

  Args:
    segment_ids: id of the example that each token belongs to; 0 on padding,
      which follows the tokens.
    positions: of each token in its example; None if each row is one example.
    rate: tokens per token that is left.
  """
  real = segment_ids > 0
  packed = positions is not None
  if packed:
    lengths = segment_lengths(segment_ids)
  else:
    index = jnp.arange(segment_ids.shape[1], dtype=jnp.int32)
    positions = jnp.broadcast_to(index, segment_ids.shape)
    lengths = jnp.sum(real, axis=1, keepdims=True, dtype=jnp.int32)
  lengths = jnp.where(real, lengths, 1)
  kept = jnp.maximum(1, lengths // rate)
  counts = jnp.where(real & (positions == 0), kept, 0)
  first = jnp.cumsum(counts, axis=1) - kept
  short_length = output_length(segment_ids.shape[1], rate, packed)
  return Places(
    segment_ids, positions, lengths, kept, first, short_length, packed
  )


def shortened_segment_ids(
  places: Places,
) -> Int[Array, 'batch short_length']:
  """Returns the segment ids of the shortened rows; 0 on padding."""
  ids = places.segment_ids
  if places.packed:
    return jnp.max(jnp.where(_belongs(places), ids[:, None, :], 0), axis=2)
  # Each step of generation asks for these, so not by pairs of tokens.
  kept = jnp.where(ids[:, :1] > 0, places.kept[:, :1], 0)
  j = jnp.arange(places.short_length, dtype=jnp.int32)[None, :]
  return jnp.where(j < kept, ids[:, :1], 0)


def low_pass_matrices(
  places: Places,
) -> Float[Array, 'batch short_length length']:
  """Returns each row's matrix, in float32; 0 on padding and across examples."""
  n, k = places.lengths[:, None, :], places.kept[:, None, :]
  belongs = _belongs(places)
  j = jnp.arange(places.short_length, dtype=jnp.int32)[None, :, None]
  j = jnp.where(belongs, j - places.first[:, None, :], 0)
  m = places.positions[:, None, :]
  # The arguments t, as integers t * 2kn: sines of large floats are inexact.
  difference = (2 * j + 1) * n - (2 * m + 1) * k
  total = (2 * j + 1) * n + (2 * m + 1) * k
  # D has a period of 2 and is even. Keeps t / 2 away from pi.
  total = jnp.minimum(total, 4 * k * n - total)
  kernel = _dirichlet(difference, k, n) + _dirichlet(total, k, n)
  return jnp.where(belongs, kernel / n, 0.0)


def shorten(
  x: Float[Array, 'batch length embed'], places: Places
) -> Float[Array, 'batch short_length embed']:
  """Returns the low frequencies of each example; 0 on padding."""
  matrices = low_pass_matrices(places).astype(x.dtype)
  x = jnp.einsum('bjm,bmd->bjd', matrices, x)
  return with_sharding_constraint(x, ('batch', None, 'embed'))


def _belongs(places):
  """Whether they share an example, [batch, short_length, length]."""
  j = jnp.arange(places.short_length, dtype=jnp.int32)[None, :, None]
  first = places.first[:, None, :]
  inside = (first <= j) & (j < first + places.kept[:, None, :])
  return inside & (places.segment_ids > 0)[:, None, :]


def _dirichlet(t, k, n):
  """Returns D(t / 2kn)."""
  # Between -pi and pi, so that sines near 0 are exact.
  turned = (t + 2 * n) % (4 * n) - 2 * n
  angle = jnp.pi * turned.astype(jnp.float32) / (2 * n)
  half = jnp.pi * t.astype(jnp.float32) / (4 * k * n)
  cotangent = 1 / jnp.tan(jnp.where(t == 0, 1.0, half))
  value = (jnp.sin(angle) * cotangent - jnp.cos(angle)) / 2
  return jnp.where(t == 0, k - 0.5, value)
