"""GPT-2 against float64 NumPy, and against itself step by step."""

import math

import gpt2_reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.networks import decoding, gpt2

PUBLISHED = {
  (768, 12, 12): 124_439_808,
  (1024, 16, 24): 354_823_168,
  (1280, 20, 36): 774_030_080,
  (1600, 25, 48): 1_557_611_200,
}


@pytest.fixture(scope='module')
def case():
  config = gpt2.GPT2Config(
    vocab_size=13, emb_dim=8, num_heads=2, num_layers=3, max_length=16
  )
  params = gpt2_reference.parameters(gpt2.GPT2(config))
  tokens = np.random.default_rng(0).integers(1, 13, (2, 7))
  tokens[:, 0] = 0  # As our rows begin.
  return gpt2.GPT2(config), jax.tree.map(jnp.asarray, params), tokens


def apply(module, params, tokens, prefix=None, **options):
  """Teacher-forced logits of rows without padding."""
  region = None
  if prefix is not None:
    region = (np.arange(tokens.shape[1]) < prefix).astype(int)
    region = jnp.broadcast_to(region, tokens.shape)
  return module.apply(
    {'params': params},
    tokens,
    jnp.ones_like(tokens),
    decoder_causal_attention=region,
    enable_dropout=False,
    **options,
  )


def greedy(module, params, prompts, count, bidirectional=False, pad=True):
  """Tokens after prompts, and the logits that chose them."""
  length = prompts.shape[1] + count
  padded = jnp.pad(jnp.asarray(prompts), ((0, 0), (0, count * pad)))
  cache, positions = decoding.start_decoder_only(
    module,
    params,
    padded,
    bidirectional=bidirectional,
    length=None if pad else length,
  )
  token = jnp.take_along_axis(padded, positions[:, None], 1)
  chosen, logits = [], []
  for _ in range(count):
    row, cache = decoding.step_decoder_only(
      module, params, cache, token, max_decode_length=length
    )
    token = jnp.argmax(row, -1, keepdims=True)
    chosen.append(token)
    logits.append(row)
  return np.concatenate(chosen, 1), np.stack(logits, 1)


def relative_error(got, want):
  return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


@pytest.mark.parametrize('size', PUBLISHED)
def test_parameters_are_as_many_as_published(size):
  embed, heads, layers = size
  module = gpt2.GPT2(
    gpt2.GPT2Config(emb_dim=embed, num_heads=heads, num_layers=layers)
  )
  tokens = jnp.ones((1, 2), jnp.int32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), tokens, tokens)
  leaves = jax.tree.leaves(shapes['params'])
  assert sum(math.prod(x.shape) for x in leaves) == PUBLISHED[size]


@pytest.mark.parametrize('prefix', [None, 4])
def test_logits_are_those_of_numpy(case, prefix):
  module, params, tokens = case
  want = [
    gpt2_reference.logits(
      jax.device_get(params), row, prefix or 0, layers=3, heads=2
    )
    for row in tokens
  ]
  logits = apply(module, params, tokens, prefix)
  assert relative_error(logits, np.stack(want)) < 1e-5


@pytest.mark.parametrize('prefix', [None, 4])
def test_gradients_show_what_sees_what(case, prefix):
  module, params, tokens = case
  tokens = jnp.arange(1, 8)[None]  # All different.

  def outputs(table):
    changed = {**params['token_embedder'], 'embedding': table}
    hidden = apply(
      module,
      {**params, 'token_embedder': changed},
      tokens,
      prefix,
      return_hidden=True,
    )
    return hidden[0]

  table = params['token_embedder']['embedding']
  gradients = jax.jit(jax.jacobian(outputs))(table)[:, :, 1:8]
  sees = np.abs(gradients).max((1, 3)) > 0
  want = np.tril(np.ones((7, 7), bool))
  if prefix:
    want[:prefix, :prefix] = True
  np.testing.assert_array_equal(sees, want)


@pytest.mark.parametrize('pad', [True, False])
@pytest.mark.parametrize('bidirectional', [False, True])
def test_prefill_and_steps_are_teacher_forcing(case, bidirectional, pad):
  """For prompts of different lengths in one batch."""
  module, params, tokens = case
  prompts = jnp.asarray(tokens).at[1, 4:].set(0)
  chosen, logits = greedy(module, params, prompts, 4, bidirectional, pad)
  for row, length in enumerate((7, 4)):
    text = np.concatenate([np.asarray(prompts[row, :length]), chosen[row]])
    prefix = length if bidirectional else None
    want = apply(module, params, jnp.asarray(text[None]), prefix)
    want = np.asarray(want)[0, length - 1 : -1]
    assert relative_error(logits[row], want) < 1e-5


def test_steps_from_an_empty_cache_are_a_prefill(case):
  module, params, tokens = case
  cache, _ = decoding.start_decoder_only(
    module, params, jnp.zeros((2, 7), jnp.int32)
  )
  for i in range(7):
    logits, cache = decoding.step_decoder_only(
      module, params, cache, jnp.asarray(tokens[:, i : i + 1])
    )
  filled, positions = decoding.start_decoder_only(
    module, params, jnp.asarray(tokens)
  )
  want, _ = decoding.step_decoder_only(
    module, params, filled, jnp.asarray(tokens[:, -1:])
  )
  assert positions.tolist() == [6, 6]
  assert relative_error(logits, np.asarray(want)) < 1e-5


def test_packed_examples_are_independent(case):
  module, params, tokens = case
  packed = jnp.concatenate([tokens[0, :4], tokens[1, :3]])[None]
  logits = module.apply(
    {'params': params},
    packed,
    jnp.ones_like(packed),
    decoder_segment_ids=jnp.array([[1, 1, 1, 1, 2, 2, 2]]),
    decoder_positions=jnp.array([[0, 1, 2, 3, 0, 1, 2]]),
    enable_dropout=False,
  )
  alone = apply(module, params, jnp.asarray(tokens))
  want = np.concatenate([alone[0, :4], alone[1, :3]])
  assert relative_error(logits[0], want) < 1e-5


def test_initial_values():
  config = gpt2.GPT2Config(
    vocab_size=64, emb_dim=64, num_heads=2, num_layers=8, max_length=64
  )
  tokens = jnp.ones((1, 2), jnp.int32)
  params = gpt2.GPT2(config).init(jax.random.key(0), tokens, tokens)['params']
  layer = params['decoder']['layers_3']
  for kernel, stddev in (
    (params['token_embedder']['embedding'], 0.02),
    (params['decoder']['position_embedder']['embedding'], 0.02),
    (layer['self_attention']['query']['kernel'], 0.02),
    (layer['mlp']['wi']['kernel'], 0.02),
    (layer['self_attention']['out']['kernel'], 0.02 / 4),
    (layer['mlp']['wo']['kernel'], 0.02 / 4),
  ):
    assert np.std(kernel) == pytest.approx(stddev, rel=0.05)


@pytest.mark.parametrize(
  ('length', 'options', 'named'),
  [
    (17, {}, 'max_length=16'),
    (4, {'prefill': True}, 'prefill_lengths'),
    (4, {'prefill': True, 'decode': True}, 'exclude'),
    (
      4,
      {'decode': True, 'decoder_segment_ids': jnp.ones((1, 4), int)},
      'packed',
    ),
  ],
)
def test_what_does_not_fit_is_refused(case, length, options, named):
  module, params, _ = case
  tokens = jnp.ones((1, length), jnp.int32)
  with pytest.raises(ValueError, match=named):
    module.apply(
      {'params': params}, tokens, tokens, enable_dropout=False, **options
    )


def test_heads_divide_the_width():
  with pytest.raises(ValueError, match='num_heads=5'):
    gpt2.GPT2Config(num_heads=5)
