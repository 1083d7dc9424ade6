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


ALL = {**networks.NETWORKS, 'GPT-2': networks.DECODER_ONLY}


@pytest.fixture(scope='module', params=ALL)
def made(request):
  module = ALL[request.param].make(
    'toy',
    dtype='float32',
    max_encoder_length=PREFIX,
    max_target_length=TOKENS,
  )
  tokens = networks.example_tokens(module)
  return module, quick_values.variables(module, *tokens)


def most_probable(module, params, prefix, tokens):
  """Returns the most probable token at each place, given those before."""
  if networks.is_decoder_only(module):
    text = jnp.concatenate([prefix, tokens], axis=1)
    given = jnp.pad(text, ((0, 0), (1, 0)))[:, :-1]
    logits = module.apply({'params': params}, given, text, enable_dropout=False)
    return jnp.argmax(logits[:, prefix.shape[1] :], axis=-1)
  given = jnp.pad(tokens, ((0, 0), (1, 0)))[:, :-1]
  logits = module.apply(
    {'params': params},
    prefix,
    given,
    jnp.ones_like(given),
    enable_dropout=False,
  )
  return jnp.argmax(logits, axis=-1)


@pytest.mark.slow
def test_tokens_are_the_most_probable_ones(made):
  module, params = made
  prefix = jax.random.randint(jax.random.key(0), (ROWS, PREFIX), 3, 512)
  tokens = generation.generate(module, params, prefix, TOKENS)
  expected = most_probable(module, params, prefix, tokens)
  np.testing.assert_array_equal(expected, tokens)
  if not networks.is_decoder_only(module):
    # A tied output layer of random values repeats what it reads.
    assert len(np.unique(tokens)) > TOKENS


def test_caches_hold_keys_and_values_of_each_layer(made):
  module, params = made
  found = generation.cache_bytes(module, params, ROWS, PREFIX, TOKENS)
  # Keys and values of a layer's 2 heads of 32, in float32.
  of_token = 2 * 2 * 32 * 4
  if networks.is_decoder_only(module):
    cross = 0
    cached = module.config.num_layers * ROWS * (PREFIX + TOKENS) * of_token
  else:
    cross = 2 * ROWS * PREFIX * of_token
    cached = 2 * ROWS * TOKENS * of_token
  assert found['cross_cache_bytes'] == cross
  # Plus a few position counters.
  counters = found['self_cache_bytes'] - cached
  assert 0 < counters <= 100 * ROWS


@pytest.mark.slow
def test_making_the_cache_costs_no_pass_of_the_decoder(made):
  """The pass that creates it only returns zeros, so XLA removes it."""
  module, params = made
  if networks.is_decoder_only(module):
    module = networks.DECODER_ONLY.make('toy', max_encoder_length=512)
    params = quick_values.variables(module, *networks.example_tokens(module))
  prefix = jnp.ones((ROWS, PREFIX), jnp.int32)

  def flops(tokens):
    def start(params, prefix):
      return generation.start(module, params, prefix, tokens)

    compiled = jax.jit(start).lower(params, prefix).compile()
    return compiled.cost_analysis()['flops']

  assert flops(256) < 1.1 * flops(16)
