"""Half spectrum: all D mixed features from features 0..D/2.

With even[n] = sum_m a[m] cos(2 pi n m / L), odd[n] = sum_m b[m] sin(...), where
a - i b is the transform over features, the mixed feature k is even - odd and
the mixed feature D - k is even + odd, which is also feature k with the order of
tokens reversed modulo L.

For a Hartley transform, even[n] = sum_m a[m] cas(2 pi n m / L) and odd[n] =
-sum_m b[m] cas(-2 pi n m / L), with cas = cos + sin. The sums for D - k are
then those of another half: with Z the complex transform, feature k is Re Z -
Im Z, and feature D - k is Re Z + Im Z with the order of tokens reversed.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Int

from fnet_t5x.fourier.methods import Transform


def real_parts(
  spectrum: Complex[Array, '*shape'], transform: Transform
) -> tuple[Float[Array, '*shape'], Float[Array, '*shape']]:
  """Returns mixed features k, and D - k but for the order of tokens.

  Args:
    spectrum: complex transform of features k over both axes.
    transform: 'fourier' or 'hartley'.
  """
  if transform == 'fourier':
    return spectrum.real, spectrum.real
  return spectrum.real - spectrum.imag, spectrum.real + spectrum.imag


def unfold(
  even: Float[Array, 'batch length half'],
  odd: Float[Array, 'batch length half'],
  embed: int,
) -> Float[Array, 'batch length embed']:
  """Returns features 0..embed - 1 from the two sums over tokens."""
  return join(even - odd, even + odd, embed)


def mirror(
  half: Float[Array, 'batch length half'],
  opposite: Float[Array, 'batch length half'],
  embed: int,
) -> Float[Array, 'batch length embed']:
  """Returns features 0..embed - 1 of whole rows from those of `real_parts`."""
  copied = _copied(opposite, embed)
  # Token 0 is its own mirror image; the order of the others is reversed.
  first = jax.lax.rev(copied[:, :1], (2,))
  others = jax.lax.rev(copied[:, 1:], (1, 2))
  tokens, start = half.shape[1:]
  return (
    _place(half, (0, 0), tokens, embed)
    + _place(first, (0, start), tokens, embed)
    + _place(others, (1, start), tokens, embed)
  )


def mirror_rows(
  half: Float[Array, 'batch length half'],
  opposite: Float[Array, 'batch length half'],
  embed: int,
  lengths: Int[Array, ' batch'],
) -> Float[Array, 'batch length embed']:
  """`mirror` for rows whose transform spans their first lengths[b] tokens.

  Both are zero on padding, and so is the result.
  """
  tail = jax.lax.rev(reverse_modulo(_copied(opposite, embed), lengths), (2,))
  return _join(half, tail, embed)


def reverse_modulo(
  x: Float[Array, 'batch length columns'], lengths: Int[Array, ' batch']
) -> Float[Array, 'batch length columns']:
  """Moves token -n modulo lengths[b] to position n of row b.

  x must be zero beyond that length, and so is the result.
  """
  tokens = x.shape[1]

  def reverse(row, length):
    # Token 0 stays, 1..length - 1 are reversed. They are at the end of the
    # reversed row; zeros follow for positions beyond `length`. One slice per
    # row is cheaper than a gather.
    backward = jnp.concatenate([row[:0:-1], jnp.zeros_like(row)])
    backward = jax.lax.dynamic_slice_in_dim(
      backward, tokens - length, tokens - 1
    )
    return jnp.concatenate([row[:1], backward])

  return jax.vmap(reverse)(x, lengths)


def join(
  half: Float[Array, 'batch length half'],
  opposite: Float[Array, 'batch length half'],
  embed: int,
) -> Float[Array, 'batch length embed']:
  """Returns features 0..embed - 1 from features k and embed - k."""
  tail = jax.lax.rev(_copied(opposite, embed), (2,))
  return _join(half, tail, embed)


def _copied(half, embed):
  """Returns the features that occur twice: all but 0 and embed / 2."""
  return half[..., 1 : (embed - 1) // 2 + 1]


def _join(half, tail, embed):
  tokens, start = half.shape[1:]
  return _place(half, (0, 0), tokens, embed) + _place(
    tail, (0, start), tokens, embed
  )


def _place(block, corner, tokens, embed):
  """Pads a block with zeros to [batch, tokens, embed].

  A sum of padded blocks compiles to one loop, which on CPU is twice as fast as
  a concatenation.
  """
  (first, start), (height, width) = corner, block.shape[1:]
  edges = (
    (0, 0, 0),
    (first, tokens - first - height, 0),
    (start, embed - start - width, 0),
  )
  return jax.lax.pad(block, jnp.zeros((), block.dtype), edges)
