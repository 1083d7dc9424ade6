import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.layers.dense import DenseGeneral
from fnet_t5x.layers.feed_forward import MlpBlock


def apply(activations, x):
  block = MlpBlock(intermediate_dim=7, activations=activations)
  variables = block.init(jax.random.key(0), x, deterministic=True)
  kernels = {
    name: np.asarray(leaf['kernel'], np.float64)
    for name, leaf in variables['params'].items()
  }
  return block.apply(variables, x, deterministic=True), kernels


def tanh_gelu(x):
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_gated_block():
  x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
  got, kernels = apply(('gelu', 'linear'), x)
  hidden = tanh_gelu(x @ kernels['wi_0']) * (x @ kernels['wi_1'])
  np.testing.assert_allclose(got, hidden @ kernels['wo'], rtol=1e-5, atol=1e-6)


def test_plain_block():
  x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
  got, kernels = apply(('relu',), x)
  want = np.maximum(x @ kernels['wi'], 0) @ kernels['wo']
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_unknown_activation_is_named():
  with pytest.raises(ValueError, match="no 'gellu'"):
    apply(('gellu',), jnp.ones((1, 1, 2)))


def test_dropout_mask_is_shared_by_positions():
  x = jnp.ones((1, 4, 3))
  block = MlpBlock(intermediate_dim=64, intermediate_dropout_rate=0.5)
  variables = block.init(jax.random.key(0), x, deterministic=True)
  out = block.apply(variables, x, rngs={'dropout': jax.random.key(1)})
  kept = block.apply(variables, x, deterministic=True)
  assert not np.allclose(out, kept)
  np.testing.assert_array_equal(out, jnp.broadcast_to(out[:, :1], out.shape))


def test_dense_contracts_several_axes():
  x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
  dense = DenseGeneral(features=(6, 2), axis=(-2, -1))
  out, variables = dense.init_with_output(jax.random.key(0), x)
  kernel = np.asarray(variables['params']['kernel'], np.float64)
  assert kernel.shape == (20, 12)
  want = (x.reshape(2, 3, 20) @ kernel).reshape(2, 3, 6, 2)
  np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6)
