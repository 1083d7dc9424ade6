"""The kit's generation: correct tokens, and sizes of caches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.benchmarks.accelerator import (
  generation,
  networks,
  quick_values,
)

PREFIX, TOKENS, ROWS = 16, 6, 2


@pytest.fixture(scope='module', params=networks.NETWORKS)
def made(request):
  module = networks.make(
    request.param, 'toy', dtype='float32', max_encoder_length=PREFIX
  )
  ones = jnp.ones((1, 8), jnp.int32)
  return module, quick_values.variables(module, ones, ones, ones)


@pytest.mark.slow
def test_tokens_are_the_most_probable_ones(made):
  module, params = made
  prefix = jax.random.randint(jax.random.key(0), (ROWS, PREFIX), 3, 512)
  tokens = generation.generate(module, params, prefix, TOKENS)
  given = jnp.pad(tokens, ((0, 0), (1, 0)))[:, :-1]
  logits = module.apply(
    {'params': params},
    prefix,
    given,
    jnp.ones_like(given),
    enable_dropout=False,
  )
  np.testing.assert_array_equal(jnp.argmax(logits, axis=-1), tokens)
  assert len(np.unique(tokens)) > TOKENS


def test_caches_hold_keys_and_values_of_each_layer(made):
  module, params = made
  found = generation.cache_bytes(module, params, ROWS, PREFIX, TOKENS)
  # Keys and values of 2 layers, 2 heads of 32, in float32.
  of_token = 2 * 2 * 2 * 32 * 4
  assert found['cross_cache_bytes'] == ROWS * PREFIX * of_token
  # Plus a few position counters.
  counters = found['self_cache_bytes'] - ROWS * TOKENS * of_token
  assert 0 < counters <= 100 * ROWS


@pytest.mark.slow
def test_making_the_cache_costs_no_pass_of_the_decoder(made):
  """The pass that creates it only returns zeros, so XLA removes it."""
  module, params = made
  prefix = jnp.ones((ROWS, PREFIX), jnp.int32)

  def flops(tokens):
    def start(params, prefix):
      return generation.start(module, params, prefix, tokens)

    compiled = jax.jit(start).lower(params, prefix).compile()
    return compiled.cost_analysis()['flops']

  assert flops(256) < 1.1 * flops(16)
