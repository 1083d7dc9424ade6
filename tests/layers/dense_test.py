import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.layers.dense import DenseGeneral


@pytest.mark.parametrize(
  ('kernel_axes', 'kernel', 'bias'),
  [
    (('embed', 'joined_kv'), (3, 8), (8,)),
    (('embed', 'heads', 'kv'), (3, 2, 4), (2, 4)),
  ],
)
def test_bias_is_stored_like_the_produced_axes(kernel_axes, kernel, bias):
  x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
  layer = DenseGeneral(
    (2, 4),
    kernel_axes=kernel_axes,
    use_bias=True,
    bias_init=jax.nn.initializers.normal(1.0),
  )
  got, variables = layer.init_with_output(jax.random.key(0), x)
  params = variables['params']
  assert jax.tree.map(jnp.shape, params) == {'kernel': kernel, 'bias': bias}
  assert variables['params_axes']['bias_axes'].names == kernel_axes[1:]
  matrix = np.asarray(params['kernel'], np.float64).reshape(3, 8)
  want = x @ matrix + np.asarray(params['bias']).reshape(8)
  np.testing.assert_allclose(got.reshape(2, 5, 8), want, rtol=1e-5, atol=1e-6)


def test_bias_of_several_contracted_axes():
  x = np.random.default_rng(0).normal(size=(2, 2, 4)).astype(np.float32)
  layer = DenseGeneral(
    3, axis=(-2, -1), kernel_axes=('heads', 'kv', 'embed'), use_bias=True
  )
  params = layer.init(jax.random.key(0), x)['params']
  params = {**params, 'bias': jnp.arange(3.0)}
  got = layer.apply({'params': params}, x)
  kernel = np.asarray(params['kernel'], np.float64)
  want = np.einsum('bhk,hke->be', x, kernel) + np.arange(3)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
