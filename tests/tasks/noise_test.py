"""Noise masks; T5's golden examples are in objectives_test.py."""

import numpy as np
import tensorflow as tf

from fnet_t5x.tasks import noise


def test_noise_is_spread_evenly_with_random_roll():
  length, draws = 40, 2000
  masks = tf.data.Dataset.range(draws).map(
    lambda i: noise.random_spans_noise_mask(
      tf.constant(length),
      0.15,
      [tf.stack([i, i + 1]), tf.stack([i + 2, 3 * i])],
      random_roll=True,
    )
  )
  share = np.mean([m.astype(float) for m in masks.as_numpy_iterator()], 0)
  assert share.shape == (length,)
  np.testing.assert_allclose(share.mean(), 6 / 40, rtol=1e-6)
  assert np.abs(share - 0.15).max() < 5 * (0.15 * 0.85 / draws) ** 0.5


def test_no_noise_at_density_zero():
  mask = noise.random_spans_noise_mask(tf.constant(5), 0.0, [])
  assert mask.numpy().tolist() == [False] * 5
