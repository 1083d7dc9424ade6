import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.layers.linear_mixing import LinearMixing

SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]])
POSITIONS = jnp.array([[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 4, 5]])


def run(segments, positions):
  x = np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)
  layer = LinearMixing(max_length=8)
  variables = layer.init(jax.random.key(0), x, segments, positions)
  matrices = variables['params']
  got = layer.apply(variables, x, segments, positions)
  want = np.zeros(x.shape)
  mixed = x @ np.asarray(matrices['embed_mixing']['kernel'], np.float64)
  weights = np.asarray(matrices['length_mixing'], np.float64)
  for b, n, m in np.ndindex(2, 6, 6):
    if segments[b, n] > 0 and segments[b, n] == segments[b, m]:
      p = np.arange(6) if positions is None else positions[b]
      want[b, n] += weights[p[n], p[m]] * mixed[b, m]
  return got, want


def test_packed_rows():
  got, want = run(SEGMENTS, POSITIONS)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_rows_of_one_segment():
  got, want = run(jnp.minimum(SEGMENTS, 1), None)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_length_limit():
  x, ids = jnp.ones((1, 9, 4)), jnp.ones((1, 9), jnp.int32)
  with pytest.raises(ValueError, match=r'9 tokens.*max_encoder_length=8'):
    LinearMixing(max_length=8).init(jax.random.key(0), x, ids)
