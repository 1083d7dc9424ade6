"""Masks drawn in a program: how many, where, and what is in their place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.benchmarks import masked_rows

MASK_ID, LENGTH, ROWS = 90, 40, 2000
TEXT_IDS = np.arange(3, 80)
MASKING = masked_rows.Masking(MASK_ID, TEXT_IDS)


def tokens():
  """Rows of text of all lengths, ended by EOS (1), then padded."""
  random = np.random.default_rng(0)
  rows = random.integers(3, 80, (ROWS, LENGTH), np.int32)
  ends = random.integers(1, LENGTH, (ROWS, 1))
  index = np.arange(LENGTH)
  rows = np.where(index < ends, rows, np.where(index == ends, 1, 0))
  rows[0] = random.integers(3, 80, LENGTH)
  rows[1] = np.where(index == 0, 1, 0)
  return rows.astype(np.int32)


@pytest.fixture(scope='module')
def drawn():
  draw = jax.jit(
    lambda key: masked_rows.draw(jnp.asarray(tokens()), key, MASKING)
  )
  key = jax.random.key(7)
  return {
    name: [
      np.asarray(found[name])
      for found in map(draw, [key, key, jax.random.key(8)])
    ]
    for name in ('inputs', 'positions', 'targets')
  }


def test_a_key_draws_the_same_masks(drawn):
  for first, again, other in drawn.values():
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_fifteen_percent_of_the_text_is_predicted(drawn):
  rows, targets = tokens(), drawn['targets'][0]
  text = np.isin(rows, TEXT_IDS).sum(axis=1)
  expected = np.maximum(np.round(np.float32(text) * np.float32(0.15)), 1)
  expected[1] = 0
  np.testing.assert_array_equal((targets > 0).sum(axis=1), expected)
  assert targets.shape == (ROWS, 6) and text[0] == LENGTH


def test_only_text_is_predicted_and_changed(drawn):
  rows = tokens()
  inputs, positions, targets = (found[0] for found in drawn.values())
  predicted = np.zeros(rows.shape, bool)
  for row, (places, wanted) in enumerate(zip(positions, targets, strict=True)):
    assert len(set(places)) == len(places)
    places = places[wanted > 0]
    np.testing.assert_array_equal(rows[row, places], wanted[wanted > 0])
    predicted[row, places] = True
  assert np.isin(rows[predicted], TEXT_IDS).all()
  np.testing.assert_array_equal(inputs[~predicted], rows[~predicted])
  assert np.isin(inputs[predicted], [MASK_ID, *TEXT_IDS]).all()


def test_masks_are_anywhere_in_the_text(drawn):
  first = drawn['positions'][0][0::2, 0]
  text = np.isin(tokens(), TEXT_IDS)[0::2].sum(axis=1)
  # Uniform over 0 to text - 1.
  np.testing.assert_allclose(np.mean((first + 0.5) / text), 0.5, atol=0.03)


def test_shares_are_berts(drawn):
  inputs, positions, targets = (found[0] for found in drawn.values())
  shown = np.take_along_axis(inputs, positions, axis=1)[targets > 0]
  targets = targets[targets > 0]
  np.testing.assert_allclose((shown == MASK_ID).mean(), 0.8, atol=0.02)
  # One random token in 77 is the original.
  same = (shown == targets).mean()
  np.testing.assert_allclose(same, 0.1 + 0.1 / len(TEXT_IDS), atol=0.015)


def test_a_row_without_text_predicts_nothing(drawn):
  assert not drawn['targets'][0][1].any()
  np.testing.assert_array_equal(drawn['inputs'][0][1], tokens()[1])
