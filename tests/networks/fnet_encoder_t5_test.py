"""FNet's encoder with T5's decoder, against both networks alone."""

import functools

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from fnet_t5x.networks import decoding, fnet, fnet_encoder_t5, t5

INPUT_IDS, TARGET_IDS = 37, 31
LENGTH = 6
FNET = {
  'vocab_size': INPUT_IDS,
  'emb_dim': 16,
  'embedding_dim': 8,
  'mlp_dim': 24,
  'num_layers': 2,
  'num_heads': 2,
  'max_length': 8,
}
T5 = {
  'vocab_size': TARGET_IDS,
  'num_heads': 2,
  'num_decoder_layers': 1,
  'head_dim': 8,
  'mlp_dim': 24,
  'mlp_activations': ('gelu', 'linear'),
}


@functools.cache
def build(width=16, **encoder):
  config = fnet_encoder_t5.FNetEncoderT5Config(
    fnet.FNetConfig(**FNET | encoder), t5.T5Config(emb_dim=width, **T5)
  )
  module = fnet_encoder_t5.Transformer(config)
  ones = [jnp.ones(shape) for shape in ((2, 8), (2, LENGTH), (2, LENGTH))]
  init = functools.partial(module.init, enable_dropout=False)
  return module, jax.jit(init)(jax.random.key(0), *ones)


def batch_of():
  rng = np.random.default_rng(0)
  inputs = jnp.asarray(rng.integers(2, INPUT_IDS, (3, 8))).at[1, 5:].set(0)
  targets = jnp.asarray(rng.integers(2, TARGET_IDS, (3, LENGTH)))
  return inputs, jnp.pad(targets[:, :-1], ((0, 0), (1, 0))), targets


def names_of(tree):
  return set(traverse_util.flatten_dict(flax.core.unfreeze(tree), sep='/'))


@functools.cache
def fnet_alone():
  module = fnet.FNet(fnet.FNetConfig(**FNET))
  init = functools.partial(module.init, enable_dropout=False)
  return module, jax.jit(init)(jax.random.key(1), jnp.ones((2, 8), jnp.int32))


def test_encoder_computes_fnets_hidden_states():
  module, variables = build()
  alone, weights = fnet_alone()
  params = {**variables['params'], 'encoder': weights['params']['encoder']}
  inputs, _, _ = batch_of()
  np.testing.assert_array_equal(
    module.apply(
      {'params': params}, inputs, enable_dropout=False, method='encode'
    ),
    alone.apply(weights, inputs, enable_dropout=False, method='encode'),
  )


def test_parameters_are_fnets_encoder_and_t5s_decoder():
  names = names_of(build()[1]['params'])
  of_fnet = names_of({'encoder': fnet_alone()[1]['params']['encoder']})
  pooler = {'encoder/pooler/kernel', 'encoder/pooler/bias'}
  assert {n for n in names if n.startswith('encoder/')} == of_fnet - pooler
  baseline = t5.Transformer(t5.T5Config(emb_dim=16, num_encoder_layers=1, **T5))
  ones = jnp.ones((1, 2))
  shapes = jax.eval_shape(
    lambda key: baseline.init(key, ones, ones, ones, enable_dropout=False),
    jax.random.key(0),
  )
  of_t5 = names_of(shapes['params'])
  assert {n for n in names if not n.startswith('encoder/')} == {
    n for n in of_t5 if not n.startswith('encoder/')
  }


def test_decoder_computes_what_t5s_does():
  """From the same encoded inputs, with the same parameters."""
  module, variables = build()
  baseline = t5.Transformer(t5.T5Config(emb_dim=16, num_encoder_layers=1, **T5))
  inputs, *targets = batch_of()
  encoded = jax.random.normal(jax.random.key(2), (3, 8, 16))
  got, want = (
    each.apply(
      {'params': variables['params']},
      encoded,
      inputs,
      *targets,
      enable_dropout=False,
      method='decode',
    )
    for each in (module, baseline)
  )
  np.testing.assert_array_equal(got, want)


def test_projection_is_a_matrix_where_widths_differ():
  module, variables = build(width=24)
  params = variables['params']
  kernel = params['encoder_projection']['kernel']
  inputs, _, _ = batch_of()
  alone, _ = fnet_alone()
  hidden = alone.apply(
    {'params': {'encoder': params['encoder']}},
    inputs,
    enable_dropout=False,
    method='encode',
  )
  got = module.apply(variables, inputs, enable_dropout=False, method='encode')
  want = np.asarray(hidden, np.float64) @ np.asarray(kernel, np.float64)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  assert 'encoder_projection' not in build()[1]['params']


@pytest.mark.parametrize('width', [16, 24])
def test_gradient_reaches_every_parameter(width):
  module, variables = build(width)
  inputs, shifted, targets = batch_of()

  @jax.jit
  def loss(params):
    logits = module.apply(
      {'params': params}, inputs, shifted, targets, enable_dropout=False
    )
    assert logits.shape == (3, LENGTH, TARGET_IDS)
    return -jax.nn.log_softmax(logits)[..., 3].sum()

  gradients = jax.grad(loss)(flax.core.unfreeze(variables['params']))
  for name, x in traverse_util.flatten_dict(gradients, sep='/').items():
    assert np.isfinite(x).all(), name
    assert np.abs(x).max() > 0, name


def test_started_decoding_equals_teacher_forcing():
  module, variables = build(width=24)
  params = variables['params']
  inputs, shifted, _ = batch = batch_of()
  want = jax.jit(functools.partial(module.apply, enable_dropout=False))(
    {'params': params}, *batch
  )

  @jax.jit
  def start(params):
    encoded = decoding.encode(module, params, inputs)
    cache, _ = decoding.start(
      module, params, encoded, jnp.zeros_like(shifted), prompted=False
    )
    return encoded, cache

  step = jax.jit(functools.partial(decoding.step, module))
  encoded, cache = start(params)
  for index in range(LENGTH):
    tokens = shifted[:, index : index + 1]
    got, cache = step(params, encoded, cache, tokens)
    got = np.reshape(got, (3, TARGET_IDS))
    np.testing.assert_allclose(got, want[:, index], rtol=1e-4, atol=1e-4)


def test_output_kernel_gives_the_logits():
  module, variables = build()
  apply = functools.partial(
    module.apply, variables, *batch_of(), enable_dropout=False
  )
  kernel = module.apply(variables, method='output_kernel')
  np.testing.assert_allclose(
    apply(return_hidden=True) @ kernel, apply(), rtol=1e-5, atol=1e-5
  )


def test_packed_rows_need_exact_lengths():
  module, variables = build()
  inputs, _, _ = batch_of()
  ids = jnp.asarray([[1] * 3 + [2] * 5] * 3)
  with pytest.raises(ValueError, match='PACK = False'):
    module.apply(variables, inputs, ids, method='encode')
  exact, _ = build(fourier_lengths='exact')
  packed = inputs.at[1].set(inputs[0])
  encode = functools.partial(
    exact.apply, variables, enable_dropout=False, method='encode'
  )
  got = encode(packed, ids)[0]
  alone = [encode(packed[:1, :3])[0], encode(packed[:1, 3:])[0]]
  np.testing.assert_allclose(got, np.concatenate(alone), rtol=1e-4, atol=1e-4)


def test_scanned_layers_are_refused():
  scanned = t5.T5Config(**T5, scan_layers=True)
  with pytest.raises(ValueError, match='SCAN_LAYERS'):
    fnet_encoder_t5.FNetEncoderT5Config(fnet.FNetConfig(), scanned)
