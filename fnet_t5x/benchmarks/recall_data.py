"""Rows in which a masked token was said once, possibly far back.

A row is random filler with pairs of a key and a value in it. Each key comes
again once, later in the row, followed by a mask: the value is to be recalled.
Nothing else in the row says anything about it, so that a network which finds no
distant token has a loss of log(VALUES) nats. The distance between the two
places of a key is drawn uniformly. A form of associative recall (Arora et al.
2023, arXiv 2312.04927, section 3.2), for encoders.
"""

import numpy as np
from jaxtyping import Int

# Ids: 0 is padding, then the mask, keys, values, filler.
MASK_ID = 1
KEYS, VALUES, FILLER = 32, 16, 32
FIRST_KEY = MASK_ID + 1
FIRST_VALUE = FIRST_KEY + KEYS
FIRST_FILLER = FIRST_VALUE + VALUES
VOCAB_SIZE = 128
# A key and its value are two tokens, said and asked for, in a quarter of a row.
_TOKENS_PER_PAIR = 16


def pairs_of(length: int) -> int:
  """Returns the number of pairs in a row of a length in tokens."""
  return min(max(length // _TOKENS_PER_PAIR, 1), KEYS)


def make_rows(
  rows: int, length: int, seed: int
) -> dict[str, Int[np.ndarray, 'rows _']]:
  """Returns rows of a seed.

  Args:
    rows: number of rows.
    length: tokens per row, at least 4.
    seed: of all random draws.

  Returns:
    int32 arrays: `inputs` [rows, length]; `positions` [rows, pairs] of the
    masks; and `targets` [rows, pairs], the values at these.

  Raises:
    ValueError: a row is too short for one pair.
  """
  if length < 4:
    raise ValueError(
      f'rows of {length} tokens: a pair said and asked for takes 4'
    )
  random = np.random.default_rng(seed)
  pairs = pairs_of(length)
  said, asked = _places(random, rows, length // 2, pairs)
  inputs = random.integers(
    FIRST_FILLER, FIRST_FILLER + FILLER, (rows, length), np.int32
  )
  keys = random.permuted(np.tile(np.arange(KEYS), (rows, 1)), axis=1)[:, :pairs]
  targets = random.integers(
    FIRST_VALUE, FIRST_VALUE + VALUES, (rows, pairs), np.int32
  )
  index = np.arange(rows)[:, None]
  for place, value in ((said, targets), (asked, MASK_ID)):
    inputs[index, 2 * place] = FIRST_KEY + keys
    inputs[index, 2 * place + 1] = value
  return {
    'inputs': inputs,
    'positions': (2 * asked + 1).astype(np.int32),
    'targets': targets,
  }


def _places(random, rows, places, pairs):
  """Returns [rows, pairs] places of two tokens, and later ones.

  All of a row are different. A distance for which no two places are left is
  drawn again.
  """
  free = np.ones((rows, places), bool)
  found = np.zeros((2, rows, pairs), int)
  for pair in range(pairs):
    left = np.arange(rows)
    while left.size:
      distance = random.integers(1, places, left.size)
      later = np.arange(places) + distance[:, None]
      fits = free[left] & (later < places)
      fits &= np.take_along_axis(
        free[left], np.minimum(later, places - 1), axis=1
      )
      first = np.where(fits, random.random(fits.shape), -1).argmax(axis=1)
      possible = fits.any(axis=1)
      chosen = left[possible]
      both = np.stack([first, first + distance])[:, possible]
      free[chosen, both] = False
      found[:, chosen, pair] = both
      left = left[~possible]
  return found
