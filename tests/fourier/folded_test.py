"""Folded matrices against float64 NumPy, for every row length."""

import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.fourier.folded import folded_real, make_folded_matrices


@pytest.mark.parametrize('tokens', [1, 2, 7, 8, 15])
def test_every_length_equals_numpy(tokens):
  lengths = np.arange(tokens + 1)
  a, b = np.random.default_rng(0).normal(size=(2, tokens + 1, tokens, 3))
  expected = np.zeros((2, tokens + 1, tokens, 3))
  for row, length in enumerate(lengths):
    for index, z in enumerate((a - 1j * b, a + 1j * b)):
      if length:
        expected[index, row, :length] = np.fft.fft(z[row, :length], axis=0).real
  found = folded_real(
    jnp.float32(a),
    jnp.float32(b),
    make_folded_matrices(jnp.asarray(lengths), tokens),
    jnp.asarray(lengths),
  )
  np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize('tokens', [7, 8])
def test_matrices_are_a_quarter_of_the_whole_ones(tokens):
  matrices = make_folded_matrices(jnp.asarray([tokens, 3]), tokens)
  assert matrices.shape == (2, 2, tokens // 2 + 1, tokens // 2 + 1)
  # Of three tokens, 2 is the mirror image of 1: only 0 and 1 are stored.
  assert not np.asarray(matrices[1, :, 2:]).any()
  assert not np.asarray(matrices[1, :, :, 2:]).any()
