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
  tail = jax.lax.rev(_copied(even + odd, embed), (2,))
  return jnp.concatenate([even - odd, tail], axis=2)


def mirror(
  half: Float[Array, 'batch length half'], embed: int
) -> Float[Array, 'batch length embed']:
  """Returns features 0..embed - 1 from 0..embed // 2, whole rows."""
  copied = _copied(half, embed)
  # Token 0 is its own mirror image; the others turn around in one pass, which
  # on CPU takes half the time of a flip and a roll.
  tail = jnp.concatenate(
    [
      jax.lax.rev(copied[:, :1], (2,)),
      jax.lax.rev(copied[:, 1:], (1, 2)),
    ],
    axis=1,
  )
  return jnp.concatenate([half, tail], axis=2)


def mirror_rows(
  half: Float[Array, 'batch length half'],
  embed: int,
  lengths: Int[Array, ' batch'],
) -> Float[Array, 'batch length embed']:
  """The same where row b's transform spans its first lengths[b] tokens.

  `half` is zero on padding, and so is the result.
  """
  copied = _copied(half, embed)
  tokens = half.shape[1]

  def turn(row, length):
    # Modulo `length`, token 0 stays and 1..length - 1 turn around. Reversed,
    # the row holds them last; zeros follow for what lies beyond `length`. One
    # slice a row is cheaper than a gather.
    turned = jnp.concatenate([row[:0:-1], jnp.zeros_like(row)])
    turned = jax.lax.dynamic_slice_in_dim(turned, tokens - length, tokens - 1)
    return jnp.concatenate([row[:1], turned])

  tail = jax.lax.rev(jax.vmap(turn)(copied, lengths), (2,))
  return jnp.concatenate([half, tail], axis=2)


def _copied(half, embed):
  """The features that occur twice: all but 0, and embed / 2 if even."""
  return half[..., 1 : (embed - 1) // 2 + 1]
