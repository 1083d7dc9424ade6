import jax
import jax.numpy as jnp
import numpy as np

from fnet_t5x.layers.normalization import CenteredLayerNorm, LayerNorm


def test_is_root_mean_square_normalization_with_a_scale():
  x = np.random.default_rng(0).normal(size=(2, 3, 5)) + 1.0
  scale = np.arange(1.0, 6.0)
  got = LayerNorm().apply({'params': {'scale': jnp.asarray(scale)}}, x)
  want = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6) * scale
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_statistics_are_float32_in_bfloat16():
  x = jnp.full((1, 1, 4096), 3.0, jnp.bfloat16)
  norm = LayerNorm(dtype=jnp.bfloat16)
  got, variables = norm.init_with_output(jax.random.key(0), x)
  assert got.dtype == jnp.bfloat16
  assert variables['params']['scale'].dtype == jnp.float32
  np.testing.assert_array_equal(got.astype(jnp.float32), 1.0)


def test_centered_normalization_against_float64():
  # A large mean, which a difference of moments would not survive.
  x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32) + 1e3
  scale, bias = np.arange(1.0, 6.0), np.arange(5.0) / 3
  params = {'scale': jnp.asarray(scale), 'bias': jnp.asarray(bias)}
  got = CenteredLayerNorm().apply({'params': params}, x)
  centered = x - x.mean(-1, keepdims=True, dtype=np.float64)
  want = centered / centered.std(-1, keepdims=True) * scale + bias
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def test_centered_statistics_are_float32_in_bfloat16():
  x = jnp.tile(jnp.array([3.0, 5.0], jnp.bfloat16), 2048)[None]
  norm = CenteredLayerNorm(dtype=jnp.bfloat16)
  got, variables = norm.init_with_output(jax.random.key(0), x)
  assert got.dtype == jnp.bfloat16
  assert variables['params']['bias'].dtype == jnp.float32
  np.testing.assert_array_equal(got[0, :2].astype(jnp.float32), [-1.0, 1.0])


def test_centered_normalization_of_a_constant_is_the_bias():
  norm = CenteredLayerNorm()
  got, _ = norm.init_with_output(jax.random.key(0), jnp.full((1, 4), 7.0))
  np.testing.assert_array_equal(got, 0.0)
