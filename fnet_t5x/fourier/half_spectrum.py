"""From features 0..D/2 of a mixed batch to all D of them.

With even[n] = sum_m a[m] cos(2 pi n m / L), odd[n] = sum_m b[m] sin(...), where
a - i b is the transform over features, the mixed feature k is even - odd and
the mixed feature D - k is even + odd, which is also feature k with the order of
tokens reversed modulo L.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def unfold(
  even: Float[Array, 'batch length half'],
  odd: Float[Array, 'batch length half'],
  embed: int,
) -> Float[Array, 'batch length embed']:
  """Returns features 0..embed - 1 from the two sums over tokens."""
  return _join(even - odd, even + odd, embed)


def mirror(
  half: Float[Array, 'batch length half'], embed: int
) -> Float[Array, 'batch length embed']:
  """Returns features 0..embed - 1 from 0..embed // 2, whole rows."""
  reversed_tokens = jnp.roll(jnp.flip(half, axis=1), 1, axis=1)
  return _join(half, reversed_tokens, embed)


def mirror_rows(
  half: Float[Array, 'batch length half'],
  embed: int,
  lengths: Int[Array, ' batch'],
) -> Float[Array, 'batch length embed']:
  """The same where row b's transform spans its first lengths[b] tokens.

  `half` is zero on padding, and so is the result.
  """
  index = jnp.arange(half.shape[1], dtype=jnp.int32)[None, :]
  source = (lengths[:, None] - index) % jnp.maximum(lengths, 1)[:, None]
  source = jnp.where(index < lengths[:, None], source, index)
  reversed_tokens = jnp.take_along_axis(half, source[:, :, None], axis=1)
  return _join(half, reversed_tokens, embed)


def _join(half, reversed_tokens, embed):
  copied = (embed - 1) // 2
  tail = jax.lax.rev(reversed_tokens[..., 1 : copied + 1], (half.ndim - 1,))
  return jnp.concatenate([half, tail], axis=-1)
