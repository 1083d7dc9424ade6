"""Decoding: causality, and agreement of cached steps with teacher forcing."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.layers.embedding import Embed
from fnet_t5x.networks import decoding

LENGTH = 6


def batch_of(random_tokens):
  inputs = random_tokens(3, 8).at[1, 5:].set(0)
  targets = random_tokens(3, LENGTH, seed=1)
  shifted = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
  return inputs, shifted, targets


def apply_jitted(module, **options):
  return jax.jit(
    functools.partial(module.apply, enable_dropout=False, **options)
  )


@functools.cache
def decoding_calls(module):
  """The calls of a generation: encode, create the cache, prefill, step."""
  cached = {'mutable': ['cache'], 'method': module.decode}
  return (
    apply_jitted(module, method=module.encode),
    apply_jitted(module, decode=True, mutable=['cache']),
    apply_jitted(module, prefill=True, **cached),
    apply_jitted(module, decode=True, max_decode_length=LENGTH, **cached),
  )


def generate(module, params, batch, prompt_lengths, prompt_width):
  """Returns logits of a prefill, unless its width is 0, and of steps."""
  encode, make_cache, prefill, step = decoding_calls(module)
  inputs, shifted, targets = batch
  rows = jnp.arange(inputs.shape[0])
  encoded = encode({'params': params}, inputs)
  ones = [jnp.ones_like(tokens) for tokens in batch]
  cache = make_cache({'params': params}, *ones)[1]
  logits = np.full((*targets.shape, 31), np.nan)
  position = np.asarray(prompt_lengths)
  if prompt_width:
    out, cache = prefill(
      {'params': params, **cache},
      encoded,
      inputs,
      shifted[:, :prompt_width],
      jnp.ones_like(shifted[:, :prompt_width]),
      prefill_lengths=jnp.asarray(position),
    )
    for row, length in enumerate(position):
      logits[row, :length] = out[row, :length]
    encoded = jnp.full_like(encoded, jnp.nan)  # No step may read it.
  while (position < LENGTH).any():
    # A finished row continues with arbitrary tokens, as in a real batch.
    token = shifted[rows, np.minimum(position, LENGTH - 1)][:, None]
    out, cache = step(
      {'params': params, **cache}, encoded, inputs, token, token
    )
    for row, index in enumerate(position):
      if index < LENGTH:
        logits[row, index] = out[row, 0]
    position = position + 1
  return logits, cache


@pytest.mark.slow
@pytest.mark.parametrize(
  ('prompt_lengths', 'prompt_width'),
  [
    ((0, 0, 0), 0),
    ((0, 0, 0), 1),
    ((4, 0, 2), 4),
    ((3, 6, 1), LENGTH),
  ],
  ids=['no prefill', 'no prompt', 'short prompts', 'full width'],
)
def test_steps_equal_teacher_forcing(
  build, random_tokens, prompt_lengths, prompt_width
):
  module, params = build('hybrid')
  batch = batch_of(random_tokens)
  want = apply_jitted(module)({'params': params}, *batch)
  got, _ = generate(module, params, batch, prompt_lengths, prompt_width)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_decoding_is_independent_of_the_batch(build, random_tokens):
  module, params = build('hybrid')
  batch = batch_of(random_tokens)
  together, _ = generate(module, params, batch, (2, 0, 1), 2)
  alone = [tokens[1:2] for tokens in batch]
  got, _ = generate(module, params, alone, (0,), 2)
  np.testing.assert_allclose(got[0], together[1], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('prompt_lengths', [None, (3, 0, 1)])
def test_started_decoding_equals_teacher_forcing(
  build, random_tokens, prompt_lengths
):
  """Two samples per example, with and without prompts."""
  module, params = build('hybrid')
  inputs, shifted, _ = batch = batch_of(random_tokens)
  want = apply_jitted(module)({'params': params}, *batch)
  lengths = jnp.asarray(prompt_lengths or (0, 0, 0))
  # Row 0 begins with a 0, and its first `length` tokens follow.
  ids = jnp.arange(LENGTH)
  prompts = jnp.where(ids[None] <= lengths[:, None], shifted, 0)

  @jax.jit
  def start(params):
    encoded = decoding.encode(module, params, inputs).repeat(2)
    cache, positions = decoding.start(
      module,
      params,
      encoded,
      jnp.repeat(prompts, 2, axis=0),
      prompted=prompt_lengths is not None,
    )
    return encoded, cache, positions

  step = jax.jit(functools.partial(decoding.step, module))
  encoded, cache, positions = start(params)
  np.testing.assert_array_equal(positions, np.repeat(lengths, 2))
  rows = np.arange(3)
  for offset in range(LENGTH - max(lengths)):
    at = np.asarray(lengths) + offset
    tokens = jnp.repeat(shifted[rows, at], 2)[:, None]
    got, cache = step(params, encoded, cache, tokens)
    np.testing.assert_allclose(
      got, np.repeat(want[rows, at], 2, axis=0), rtol=1e-4, atol=1e-4
    )


@pytest.mark.slow
def test_an_empty_cache_is_filled_by_steps(build, random_tokens):
  module, params = build('hybrid')
  inputs, shifted, _ = batch = batch_of(random_tokens)
  want = apply_jitted(module)({'params': params}, *batch)
  encoded = decoding.encode(module, params, inputs)
  cache = decoding.empty_cache(module, params, encoded, LENGTH)
  step = jax.jit(functools.partial(decoding.step, module))
  for position in range(3):
    tokens = shifted[:, position : position + 1]
    got, cache = step(params, encoded, cache, tokens)
    np.testing.assert_allclose(got, want[:, position], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_cache_layout(build, random_tokens):
  module, params = build('hybrid')
  cache = generate(module, params, batch_of(random_tokens), (0,) * 3, 1)[1]
  shapes = jax.tree.map(jnp.shape, cache['cache']['decoder'])
  past, inputs = (3, 2, LENGTH, 8), {'cached_bias': (3, 2, 8, 8)}
  assert shapes == {
    'relpos_bias': {'cached_bias': (2, LENGTH), 'cache_index': (3,)},
    'layers_0': {
      'self_attention': {
        'cached_key': past,
        'cached_value': past,
        'cache_index': (3,),
      },
      'encoder_decoder_attention': {
        'cached_cross_key': inputs,
        'cached_cross_value': inputs,
      },
    },
  }


def test_beams_may_share_the_cross_attention_cache(build, random_tokens):
  module, params = build('hybrid')
  encode, make_cache, prefill, step = decoding_calls(module)
  inputs, shifted, _ = batch_of(random_tokens)
  encoded = encode({'params': params}, inputs)
  start = jnp.zeros((3, 1), jnp.int32)
  cache = make_cache({'params': params}, *[jnp.ones_like(shifted)] * 3)[1]
  _, cache = prefill(
    {'params': params, **cache},
    encoded,
    inputs,
    start,
    start,
    prefill_lengths=jnp.zeros(3, jnp.int32),
  )

  def expand(path, leaf):
    shared = path[-1].key == 'cached_bias'
    return leaf if shared else jnp.repeat(leaf, 2, axis=0)

  wide = jax.tree_util.tree_map_with_path(expand, cache)
  inputs_wide = jnp.repeat(inputs, 2, axis=0)
  tokens = jnp.arange(2, 8).reshape(6, 1)
  got, _ = step(
    {'params': params, **wide}, encoded, inputs_wide, tokens, tokens
  )
  for beam in range(2):
    one = tokens[beam::2]
    want, _ = step({'params': params, **cache}, encoded, inputs, one, one)
    np.testing.assert_allclose(got[beam::2], want, rtol=1e-4, atol=1e-5)


def test_the_decoder_is_causal(build, random_tokens):
  module, params = build('hybrid')
  inputs, shifted, targets = (x[:1] for x in batch_of(random_tokens))
  encoded = apply_jitted(module, method=module.encode)(
    {'params': params}, inputs
  )

  def squares(embedded):
    def embed(lookup, args, kwargs, context):
      is_lookup = isinstance(context.module, Embed)
      return embedded if is_lookup else lookup(*args, **kwargs)

    with nn.intercept_methods(embed):
      logits = module.apply(
        {'params': params},
        encoded,
        inputs,
        shifted,
        targets,
        enable_dropout=False,
        method=module.decode,
      )
    return jnp.sum(jnp.square(logits[0]), axis=-1)

  embedded = jax.random.normal(jax.random.key(0), (1, LENGTH, 16))
  gradients = jax.jit(jax.jacrev(squares))(embedded)
  reach = np.abs(gradients).max(axis=(1, 3))  # [output, input position]
  assert (reach[np.triu_indices(LENGTH, 1)] == 0).all()
  assert (reach[np.tril_indices(LENGTH)] > 1e-6).all()


def test_invalid_cached_calls(build, random_tokens):
  module, params = build('hybrid')
  inputs, shifted, targets = batch_of(random_tokens)
  encoded = jnp.zeros((3, 8, 16))

  def decode(**options):
    module.apply(
      {'params': params},
      encoded,
      inputs,
      shifted,
      targets,
      enable_dropout=False,
      method=module.decode,
      **options,
    )

  with pytest.raises(ValueError, match='packed inputs'):
    decode(decode=True, encoder_segment_ids=jnp.ones_like(inputs))
  with pytest.raises(ValueError, match='two calls'):
    decode(decode=True, prefill=True)
  with pytest.raises(ValueError, match='needs prefill_lengths'):
    decode(prefill=True)
