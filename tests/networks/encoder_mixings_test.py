"""Encoders with one layer of each mixing beyond FNet's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scanned_networks

from fnet_t5x.networks import encoder_mixings

MIXINGS = (
  'hartley',
  'toeplitz',
  'fourier_gated',
  'hartley_gated',
  'toeplitz_gated',
  'toeplitz_gated_dependent',
  'convolution',
)
CHOICES = {
  'auto': {},
  'fft': {'toeplitz_method': 'fft', 'fourier_method': 'fft'},
  'network': {
    'toeplitz_method': 'matmul',
    'toeplitz_filter': 'network',
    'fourier_method': 'matmul',
  },
}


@functools.cache
def network(mixings=MIXINGS, choice='auto', dtype='float32', **options):
  """Returns a network and its parameters."""
  module = scanned_networks.hybrid(
    dtype=jnp.dtype(dtype),
    num_decoder_layers=1,
    num_encoder_layers=len(mixings),
    encoder_mixing=mixings,
    **CHOICES[choice],
    **options,
  )
  ones = jnp.ones((2, 8)), jnp.ones((2, 6)), jnp.ones((2, 6))
  init = jax.jit(functools.partial(module.init, enable_dropout=False))
  return module, init(jax.random.key(0), *ones)['params']


def encode(module, params, tokens, segments=None):
  return jax.jit(
    lambda params, tokens, segments: module.apply(
      {'params': params},
      tokens,
      segments,
      enable_dropout=False,
      method=module.encode,
    )
  )(params, tokens, segments)


def assert_close(got, want, tolerance):
  got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
  assert np.std(want) > 0.1
  np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def test_every_name_has_a_function():
  names = set(encoder_mixings.Mixing.__args__)
  assert names == {*encoder_mixings.MIXINGS, 'attention', 'none'}
  assert {*MIXINGS, 'fourier', 'linear'} == set(encoder_mixings.MIXINGS)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('choice', 'dtype', 'tolerance'),
  [
    ('auto', 'float32', 2e-5),
    ('fft', 'float32', 2e-5),
    ('network', 'float32', 2e-5),
    # Seven layers, each with FFTs or sums in another order for other lengths:
    # more rounding than in the two layers of other tests (6e-2).
    ('auto', 'bfloat16', 0.15),
  ],
)
def test_invariant_to_padding_and_packing(
  random_tokens, choice, dtype, tolerance
):
  module, params = network(choice=choice, dtype=dtype)
  one, other = random_tokens(1, 6), random_tokens(1, 6, seed=1)
  want = encode(module, params, jnp.concatenate([one, other]))
  assert want.dtype == dtype
  padded = jnp.pad(jnp.concatenate([one, other]), ((0, 0), (0, 5)))
  assert_close(encode(module, params, padded)[:, :6], want, tolerance)
  packed = jnp.concatenate([one, other, jnp.zeros_like(one[:, :2])], axis=1)
  segments = jnp.array([[1] * 6 + [2] * 6 + [0] * 2])
  got = encode(module, params, packed, segments)
  assert_close(got[:, :6], want[:1], tolerance)
  assert_close(got[:, 6:12], want[1:], tolerance)


@pytest.mark.slow
def test_padded_transforms_read_padding(random_tokens):
  tokens = random_tokens(2, 7)
  for mixing in ('hartley', 'hartley_gated'):
    module, params = network((mixing,), fourier_lengths='padded')
    padded = jnp.pad(tokens, ((0, 0), (0, 4)))
    got = encode(module, params, padded)[:, :7]
    assert np.abs(got - encode(module, params, tokens)).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize('choice', ['auto', 'network'])
def test_every_parameter_has_a_gradient(random_tokens, choice):
  module, params = network(choice=choice)
  inputs, targets = random_tokens(4, 16), random_tokens(4, 6)

  @jax.jit
  @jax.grad
  def gradients(params):
    logits = module.apply(
      {'params': params}, inputs, targets, targets, enable_dropout=False
    )
    return -jax.nn.log_softmax(logits)[..., 3].mean()

  for path, x in jax.tree_util.tree_leaves_with_path(gradients(params)):
    assert np.isfinite(x).all(), path
    assert np.any(x), path


@pytest.mark.slow
def test_free_filters_limit_the_length(random_tokens):
  options = {'encoder_position_embedding': 'none'}
  for mixing in ('toeplitz', 'toeplitz_gated'):
    module, params = network((mixing,), **options)
    with pytest.raises(ValueError, match=r'17 tokens.*max_encoder_length=16'):
      encode(module, params, random_tokens(1, 17))
  module, params = network(('toeplitz',), 'network', **options)
  assert np.isfinite(encode(module, params, random_tokens(1, 17))).all()
