"""The repetition guard against a look at all n-grams of the finished text."""

import jax
import numpy as np
import pytest

from fnet_t5x.runtime import repetition

VOCAB = 5


def brute_force(tokens, size):
  """Tokens after which the text would hold an n-gram twice."""
  banned = np.zeros(VOCAB, bool)
  for token in range(VOCAB):
    text = [*tokens, token]
    ngrams = [tuple(text[i : i + size]) for i in range(len(text) - size + 1)]
    banned[token] = len(ngrams) > 0 and ngrams[-1] in ngrams[:-1]
  return banned


@pytest.mark.parametrize('size', [1, 2, 3, 4])
def test_equals_brute_force(size):
  """At every length, also of texts that hold n-grams twice already."""
  rng = np.random.default_rng(size)
  tokens = rng.integers(0, VOCAB, (6, 20))
  banned = jax.jit(
    lambda count: repetition.repeating_tokens(tokens, count, size, VOCAB)
  )
  seen = 0
  for count in range(21):
    want = np.stack([brute_force(row[:count], size) for row in tokens])
    np.testing.assert_array_equal(banned(count), want)
    seen += want.sum()
  assert seen


def test_text_shorter_than_the_ngram():
  banned = repetition.repeating_tokens(np.ones((2, 3), int), 3, 5, VOCAB)
  assert banned.shape == (2, VOCAB)
  assert not banned.any()
