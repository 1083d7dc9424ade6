"""Rows of recall: what they ask for is in them, once."""

import numpy as np
import pytest

from fnet_t5x.benchmarks import recall_data
from fnet_t5x.benchmarks.recall_data import FIRST_KEY, FIRST_VALUE, MASK_ID


def said_of(row, mask):
  """Returns where the key before a mask was said first, and the next token."""
  (places,) = np.nonzero(row == row[mask - 1])
  assert len(places) == 2 and places[1] == mask - 1
  return places[0], row[places[0] + 1]


@pytest.mark.parametrize('length', [4, 33, 128])
def test_rows_are_solvable(length):
  rows = recall_data.make_rows(40, length, seed=1)
  inputs = rows['inputs']
  assert inputs.shape == (40, length) and inputs.min() > 0
  assert inputs.max() < recall_data.VOCAB_SIZE
  pairs = recall_data.pairs_of(length)
  assert rows['targets'].shape == (40, pairs)
  assert (np.sum(inputs == MASK_ID, axis=1) == pairs).all()
  for row, masks, targets in zip(*rows.values(), strict=True):
    assert len(set(masks)) == pairs
    for mask, target in zip(masks, targets, strict=True):
      assert row[mask] == MASK_ID
      assert FIRST_KEY <= row[mask - 1] < FIRST_VALUE
      assert said_of(row, mask)[1] == target


def test_only_what_was_said_tells_a_value():
  rows = recall_data.make_rows(4000, 64, seed=0)
  values, counts = np.unique(rows['targets'], return_counts=True)
  assert len(values) == recall_data.VALUES
  np.testing.assert_allclose(counts / counts.mean(), 1, atol=0.15)
  # The key is asked for with any of them.
  keys = rows['inputs'][np.arange(4000)[:, None], rows['positions'] - 1]
  table = np.zeros((recall_data.KEYS, recall_data.VALUES))
  np.add.at(table, (keys - FIRST_KEY, rows['targets'] - FIRST_VALUE), 1)
  # As independent counts vary.
  np.testing.assert_allclose(table.var() / table.mean(), 1, atol=0.25)


def test_distances_are_uniform():
  length = 64
  rows = recall_data.make_rows(4000, length, seed=0)
  distances = [
    mask - 1 - said_of(row, mask)[0]
    for row, masks in zip(rows['inputs'], rows['positions'], strict=True)
    for mask in masks
  ]
  counts = np.bincount(np.array(distances) // 2, minlength=length // 2)[1:]
  # The longest ones have few places, which may be taken: they are drawn again.
  np.testing.assert_allclose(counts[:24] / counts.mean(), 1, atol=0.2)
  assert counts[-1] > counts.mean() / 4


def test_a_seed_makes_the_same_rows():
  first, again, other = (recall_data.make_rows(8, 32, s) for s in (3, 3, 4))
  for name, array in first.items():
    np.testing.assert_array_equal(array, again[name])
  assert not np.array_equal(first['inputs'], other['inputs'])


def test_a_short_row_is_named():
  with pytest.raises(ValueError, match='rows of 3 tokens'):
    recall_data.make_rows(1, 3, 0)
