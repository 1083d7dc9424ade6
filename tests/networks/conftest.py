"""Tiny networks and batches shared by the tests of this folder."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.networks import fnet_t5, t5

SIZES = {
  'vocab_size': 31,
  'emb_dim': 16,
  'num_heads': 2,
  'num_encoder_layers': 2,
  'num_decoder_layers': 1,
  'head_dim': 8,
  'mlp_dim': 24,
  'mlp_activations': ('gelu', 'linear'),
  'dropout_rate': 0.1,
}
LAYOUTS = {
  'attention': ('attention',) * 2,
  'fourier': ('fourier',) * 2,
  'hybrid': ('fourier', 'attention'),
  'linear': ('linear',) * 2,
  'none': ('none',) * 2,
  'gated': ('toeplitz_gated_dependent', 'hartley_gated'),
}


@functools.cache
def build_network(name, **choices):
  """Returns a network, 't5' or a key of LAYOUTS, and its parameters."""
  if name == 't5':
    module = t5.Transformer(t5.T5Config(**SIZES | choices))
  else:
    sizes = SIZES | {'max_encoder_length': 16, 'encoder_mixing': LAYOUTS[name]}
    module = fnet_t5.Transformer(fnet_t5.FNetT5Config(**sizes | choices))
  ones = jnp.ones((2, 8)), jnp.ones((2, 6)), jnp.ones((2, 6))
  # Not jitted: the networks share most operations, and JAX compiles each once.
  variables = module.init(jax.random.key(0), *ones, enable_dropout=False)
  return module, variables['params']


@pytest.fixture
def build():
  return build_network


@pytest.fixture
def random_tokens():
  """Draws ids that are neither padding nor EOS."""

  def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(2, 31, shape))

  return draw
