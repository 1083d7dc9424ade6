"""Metrics of language models, against closed forms."""

import math

import numpy as np
import pytest

from fnet_t5x.tasks import metrics


def _extent(**changes):
  return {'tokens': 4, 'unknown_tokens': 0, 'bytes': 10, 'words': 2, **changes}


def test_held_out_loss_is_a_ratio_of_sums():
  targets = [_extent(), _extent(tokens=1, bytes=2, words=0, unknown_tokens=1)]
  values = metrics.held_out_loss(targets, [-6.0, -3.0])
  assert values == {
    'bits_per_byte': pytest.approx(9 / math.log(2) / 12),
    'perplexity_per_word': pytest.approx(math.exp(9 / 2)),
    'loss_per_token': pytest.approx(9 / 5),
    'unknown_token_share': pytest.approx(1 / 5),
    'documents_bytes': 12,
    'documents_words': 2,
    'documents_tokens': 5,
  }


def test_a_uniform_model_of_bytes_has_8_bits_per_byte():
  targets = [_extent(tokens=10, bytes=10)]
  values = metrics.held_out_loss(targets, [10 * math.log(1 / 256)])
  assert values['bits_per_byte'] == pytest.approx(8)


def test_many_scores_add_up_in_float64():
  scores = np.float32([-1e4] + [-1e-3] * 10000)
  values = metrics.held_out_loss([_extent()] * len(scores), scores.tolist())
  nats = float(np.sum(np.float64(-scores)))
  assert values['loss_per_token'] * 4 * len(scores) == pytest.approx(
    nats, rel=1e-12
  )


def test_perplexity_beyond_float64_is_infinite():
  assert metrics.perplexity(1000.0) == math.inf
  assert (
    metrics.held_out_loss([_extent()], [-2000.0])['perplexity_per_word']
    == math.inf
  )


def test_perplexity_of_last_words_is_per_word():
  targets = [{'word': 'a', 'tokens': 1}, {'word': 'b', 'tokens': 3}]
  assert metrics.last_word_perplexity(targets, [-1.0, -2.0]) == {
    'perplexity': pytest.approx(math.exp(1.5)),
    'loss_per_token': pytest.approx(0.75),
  }
  assert metrics.last_word_accuracy(targets, ['a', 'c']) == {'accuracy': 50}


def test_target_loss_is_per_token():
  loss = (1.0 + 2.0) / (2 + 4)
  assert metrics.target_loss([2, 4], [-1.0, -2.0]) == {
    'loss': pytest.approx(loss),
    'perplexity': pytest.approx(math.exp(loss)),
  }
