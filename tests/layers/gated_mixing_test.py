import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.layers.gated_mixing import GatedMixing, convolve_tokens

SEGMENTS = np.array([[1, 1, 1, 1, 2, 2, 2, 0], [1, 2, 2, 2, 2, 2, 2, 2]])
PARTS = [(0, 0, 4), (0, 4, 7), (1, 0, 1), (1, 1, 8)]


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def expected_convolution(x, kernel):
  """`np.convolve` over the tokens of each part; zero elsewhere."""
  want, radius = np.zeros(x.shape), len(kernel) // 2
  for row, start, stop in PARTS:
    for feature in range(x.shape[2]):
      # NumPy's kernel is reversed, and its 'same' that of the longer one.
      whole = np.convolve(
        x[row, start:stop, feature], kernel[::-1, feature], 'full'
      )
      length = stop - start
      want[row, start:stop, feature] = whole[radius : radius + length]
  return want


@pytest.mark.parametrize('width', [1, 3, 5])
def test_convolution_stays_within_each_example(width):
  x, kernel = normal(2, 8, 3), normal(width, 3, seed=1)
  got = convolve_tokens(x, kernel, jnp.asarray(SEGMENTS))
  want = expected_convolution(np.float64(x), np.float64(kernel))
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  x[0, 7] = 1e6  # padding
  np.testing.assert_array_equal(
    convolve_tokens(x, kernel, jnp.asarray(SEGMENTS)), got
  )


def test_gradients_of_the_convolution():
  x, kernel = normal(2, 8, 3), normal(5, 3, seed=1)
  cotangent = normal(2, 8, 3, seed=2)
  _, pullback = jax.vjp(
    lambda x, kernel: convolve_tokens(x, kernel, jnp.asarray(SEGMENTS)),
    x,
    kernel,
  )
  of_x, of_kernel = pullback(jnp.asarray(cotangent))
  # The transpose correlates; the map is linear in the kernel.
  want = expected_convolution(np.float64(cotangent), np.float64(kernel[::-1]))
  np.testing.assert_allclose(of_x, want, rtol=1e-4, atol=1e-5)
  for k in range(5):
    only = np.zeros((5, 3))
    only[k] = 1
    moved = expected_convolution(np.float64(x), only)
    np.testing.assert_allclose(
      of_kernel[k], (moved * cotangent).sum((0, 1)), rtol=1e-4, atol=1e-5
    )


def silu(x):
  return x / (1 + np.exp(-x))


@pytest.mark.parametrize('mixes', [False, True])
def test_block_equals_numpy(mixes):
  x = normal(2, 8, 4)
  mix = (lambda value, inputs: 2 * value + inputs) if mixes else None
  got, variables = GatedMixing(width=3).init_with_output(
    jax.random.key(0), x, jnp.asarray(SEGMENTS), mix
  )
  p = jax.tree.map(np.float64, variables['params'])
  assert p['convolution'].shape == (3, 4)
  x = np.float64(x)
  value = expected_convolution(x @ p['wi_value']['kernel'], p['convolution'])
  value = silu(value)
  if mixes:
    value = value + 2 * value + x
  mean_square = np.square(value).mean(axis=-1, keepdims=True)
  value = value / np.sqrt(mean_square + 1e-6) * p['norm']['scale']
  want = value * silu(x @ p['wi_gate']['kernel']) @ p['wo']['kernel']
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_a_mixing_creates_its_modules_in_the_block():
  def mix(value, _):
    return nn.Dense(4, name='inner')(value)

  variables = GatedMixing().init(
    jax.random.key(0), normal(2, 8, 4), jnp.asarray(SEGMENTS), mix
  )
  assert set(variables['params']) == {
    'convolution',
    'inner',
    'norm',
    'wi_gate',
    'wi_value',
    'wo',
  }
