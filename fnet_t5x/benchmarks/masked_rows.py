"""Masked tokens of rows, drawn inside a compiled program."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

# BERT's (Devlin et al. 2019, arXiv 1810.04805, section 3.1): share of the text
# to predict, and shares of that which become a mask or a random token.
DENSITY, MASKED, RANDOM = 0.15, 0.8, 0.1


class Masking(NamedTuple):
  """Ids of a vocabulary.

  Attributes:
    mask_id: id of the mask.
    text_ids: ids that have text, which alone are predicted, and of which random
      tokens are drawn.
  """

  mask_id: int
  text_ids: Int[np.ndarray, ' ids']


def draw(
  tokens: Int[Array, 'batch length'], key: jax.Array, masking: Masking
) -> dict[str, Int[Array, 'batch _']]:
  """Draws what to predict of each row: 15 % of its text, at least one token.

  Args:
    tokens: the rows; 0 is padding.
    key: of all draws.
    masking: the vocabulary's ids.

  Returns:
    `inputs` [batch, length]; and [batch, predictions] `positions` and
    `targets`, the tokens at these, for the number of predictions in a row full
    of text. Other rows have fewer: their further targets are 0.
  """
  batch, length = tokens.shape
  most = max(round(length * DENSITY), 1)
  place_key, kind_key, token_key = jax.random.split(key, 3)
  is_text = np.zeros(masking.text_ids.max() + 1, bool)
  is_text[masking.text_ids] = True
  has_text = jnp.asarray(is_text).at[tokens].get(mode='fill', fill_value=False)
  text = jnp.sum(has_text, axis=1, keepdims=True)
  count = jnp.maximum(jnp.round(text * DENSITY).astype(jnp.int32), 1)
  # Draws are at least 0, so that other tokens come last.
  score = jnp.where(has_text, jax.random.uniform(place_key, tokens.shape), -1.0)
  highest, positions = jax.lax.top_k(score, most)
  chosen = (highest >= 0) & (jnp.arange(most)[None] < count)
  original = jnp.take_along_axis(tokens, positions, axis=1)
  kind = jax.random.uniform(kind_key, positions.shape)
  other = jax.random.choice(
    token_key, jnp.asarray(masking.text_ids), positions.shape
  )
  hidden = jnp.where(
    kind < MASKED,
    masking.mask_id,
    jnp.where(kind < MASKED + RANDOM, other, original),
  )
  rows = jnp.arange(batch)[:, None]
  hidden = jnp.where(chosen, hidden, original).astype(tokens.dtype)
  return {
    'inputs': tokens.at[rows, positions].set(hidden),
    'positions': positions,
    'targets': jnp.where(chosen, original, 0),
  }
