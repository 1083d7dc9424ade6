"""Which tokens would repeat a part of the text so far."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def repeating_tokens(
  tokens: Int[Array, 'rows length'],
  count: int | Int[Array, ''],
  size: int,
  vocab_size: int,
) -> Bool[Array, 'rows vocab']:
  """Tokens that would complete an n-gram which the text already holds.

  With n = 3 and the text a b c a b, c would: a b c would be there twice.

  Args:
    tokens: the texts; what follows the first `count` tokens is not looked at.
    count: tokens of each text; it may be traced.
    size: n, at least 1. With 1 no token may occur twice.
    vocab_size: ids in the vocabulary.

  Returns:
    True where a token may not follow.
  """
  rows, length = tokens.shape
  banned = jnp.zeros((rows, vocab_size), bool)
  starts = length - size + 1
  if starts < 1:
    return banned
  # The last n - 1 tokens, at any place where a next token follows them. (While
  # there are fewer, the slice is of no meaning, and nothing is complete.)
  last = jax.lax.dynamic_slice_in_dim(tokens, count - (size - 1), size - 1, 1)
  follows = jnp.arange(starts)[None, :] + size - 1 < count
  match = jnp.broadcast_to(follows, (rows, starts))
  for i in range(size - 1):
    match &= tokens[:, i : i + starts] == last[:, i : i + 1]
  following = tokens[:, size - 1 :]
  return banned.at[jnp.arange(rows)[:, None], following].max(match)
