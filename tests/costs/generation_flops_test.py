"""FLOPs of generation against the compiled programs."""

import jax
import jax.numpy as jnp
import pytest

from fnet_t5x.benchmarks.accelerator import generation, networks
from fnet_t5x.costs import generation_flops
from fnet_t5x.networks import decoding, gpt2
from fnet_t5x.planning import hlo

PREFIX, TOKENS, ROWS = 64, 16, 2
NETWORKS = {
  'T5': networks.NETWORKS['T5'],
  'hybrid': networks.NETWORKS['hybrid'],
  'GPT-2': networks.DECODER_ONLY,
}


def executed(function, *arguments):
  """FLOPs per row of a program, from its matrix products."""
  compiled = jax.jit(function).lower(*arguments).compile()
  return hlo.cost(compiled.as_text()).flops / ROWS


@pytest.mark.parametrize('name', NETWORKS)
def test_programs_execute_the_formulas(name):
  module = NETWORKS[name].make(
    'toy',
    scan_layers=False,
    max_encoder_length=PREFIX,
    max_target_length=TOKENS,
  )
  params = jax.eval_shape(
    lambda: module.init(jax.random.key(0), *networks.example_tokens(module))[
      'params'
    ]
  )
  inputs = jax.ShapeDtypeStruct((ROWS, PREFIX), jnp.int32)

  def start(params, inputs):
    return generation.start(module, params, inputs, TOKENS)

  def step(params, started):
    return generation.take_steps(module, params, started, 1)

  by_formula = generation_flops.generation_flops(module.config, PREFIX, TOKENS)
  started = jax.eval_shape(start, params, inputs)
  assert executed(step, params, started) == by_formula.step
  prefix = executed(start, params, inputs)
  if name == 'GPT-2':
    assert prefix == by_formula.prefix
    return
  # Position biases, by products with one-hot buckets of offsets, for all rows.
  prefix -= 2 * 2 * 32 * (2 * PREFIX - 1 + TOKENS + 1) / ROWS
  # The position that is decoded twice: in the first of two layers projections,
  # attention to the prefix and feed-forward block, in the second keys and
  # values.
  prefix -= (12 * 64**2 + 4 * 64 * PREFIX + 6 * 64 * 128) + 4 * 64**2
  # Folded matrices have a few rows more than a quarter.
  tolerance = 1e-3 if name == 'hybrid' else 0
  assert prefix == pytest.approx(by_formula.prefix, rel=tolerance)


@pytest.mark.parametrize('layers', [('fourier',) * 2, ('toeplitz', 'none')])
def test_steps_of_causal_mixings_execute_the_formulas(layers):
  config = gpt2.GPT2Config(
    vocab_size=128,
    emb_dim=64,
    num_heads=2,
    num_layers=2,
    max_length=PREFIX + TOKENS,
    decoder_mixing=layers,
  )
  module = gpt2.GPT2(config)
  tokens = jax.ShapeDtypeStruct((ROWS, PREFIX), jnp.int32)
  params = jax.eval_shape(
    lambda: module.init(jax.random.key(0), *2 * (jnp.ones((1, 1), jnp.int32),))
  )['params']

  def start(params, prompts):
    length = PREFIX + TOKENS
    return decoding.start_decoder_only(module, params, prompts, length=length)

  def step(params, cache, token):
    return decoding.step_decoder_only(module, params, cache, token)

  by_formula = generation_flops.generation_flops(config, PREFIX, TOKENS)
  cache, _ = jax.eval_shape(start, params, tokens)
  token = jax.ShapeDtypeStruct((ROWS, 1), jnp.int32)
  assert executed(step, params, cache, token) == by_formula.step
  # A prompt without its last column; and where cosines are folded or filters
  # are laid out, a few percent of what the formulas leave out.
  shorter = generation_flops.generation_flops(config, PREFIX - 1, TOKENS + 1)
  found = executed(start, params, tokens)
  assert found == pytest.approx(shorter.prefix, rel=0.03)


@pytest.mark.parametrize('name', NETWORKS)
def test_attention_is_what_grows_with_the_square(name):
  config = NETWORKS[name].make('toy', max_encoder_length=2 * PREFIX).config
  once, twice = (
    generation_flops.generation_flops(config, length, TOKENS)
    for length in (PREFIX, 2 * PREFIX)
  )
  growth = twice.prefix - 2 * once.prefix
  if name != 'hybrid':
    assert growth == 2 * once.attention
    return
  # Fourier mixing grows too; two of four layers attend.
  t5 = NETWORKS['T5'].make('toy').config
  whole = generation_flops.generation_flops(t5, PREFIX, TOKENS)
  assert once.attention == whole.attention / 2 < growth
