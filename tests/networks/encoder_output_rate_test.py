import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.costs import flops
from fnet_t5x.networks import decoding, fnet_t5

VOCABULARY = 40


def _network(rate=3, **changes):
  return fnet_t5.Transformer(
    fnet_t5.FNetT5Config(
      **{
        'vocab_size': VOCABULARY,
        'emb_dim': 16,
        'num_heads': 2,
        'head_dim': 8,
        'mlp_dim': 32,
        'num_encoder_layers': 2,
        'num_decoder_layers': 1,
        'dropout_rate': 0.0,
        'encoder_mixing': ('fourier', 'attention'),
        'max_encoder_length': 32,
        'encoder_output_rate': rate,
        **changes,
      }
    )
  )


def _parameters(network):
  ones = jnp.ones((1, 8), jnp.int32)
  return jax.jit(network.init)(jax.random.key(0), ones, ones, ones)['params']


def _logits(network, params, inputs, targets, **packing):
  apply = jax.jit(functools.partial(network.apply, enable_dropout=False))
  return apply({'params': params}, inputs, targets, targets, **packing)


def _tokens(seed, *shape):
  return np.random.default_rng(seed).integers(2, VOCABULARY, shape)


@pytest.mark.parametrize(
  'scan_layers', [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_padding_changes_nothing(scan_layers):
  network = _network(scan_layers=scan_layers)
  params = _parameters(network)
  inputs, targets = _tokens(1, 2, 11), _tokens(2, 2, 5)
  padded = np.pad(inputs, ((0, 0), (0, 8)))
  want = _logits(network, params, inputs, targets)
  got = _logits(network, params, padded, targets)
  np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.slow
def test_packed_examples_are_those_alone():
  network = _network()
  params = _parameters(network)
  lengths = ((9, 4), (2, 3), (6, 4))
  pairs = [
    (_tokens(i, 1, n), _tokens(9 + i, 1, m)) for i, (n, m) in enumerate(lengths)
  ]
  want = [_logits(network, params, x, y)[0] for x, y in pairs]
  sides = []
  for side, length in ((0, 20), (1, 12)):
    sizes = [pair[side].shape[1] for pair in pairs]
    pad = [(0, 0), (0, length - sum(sizes))]
    tokens = np.concatenate([pair[side] for pair in pairs], axis=1)
    ids = np.repeat([[1, 2, 3]], sizes, axis=1)
    positions = np.concatenate([np.arange(n) for n in sizes])[None]
    sides.append([np.pad(x, pad) for x in (tokens, ids, positions)])
  (inputs, input_ids, places), (targets, target_ids, _) = sides
  got = _logits(
    network,
    params,
    inputs,
    targets,
    encoder_segment_ids=input_ids,
    decoder_segment_ids=target_ids,
    encoder_positions=places,
  )
  np.testing.assert_allclose(got[0, :11], np.concatenate(want), atol=2e-5)


@pytest.mark.slow
def test_steps_equal_teacher_forcing_from_a_shorter_cache():
  network = _network(rate=4)
  params = _parameters(network)
  inputs = np.pad(_tokens(3, 2, 13), ((0, 0), (0, 3)))
  targets = _tokens(4, 2, 6)
  shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
  want = network.apply(
    {'params': params}, inputs, shifted, targets, enable_dropout=False
  )
  encoded = decoding.encode(network, params, jnp.asarray(inputs))
  assert encoded.outputs.shape == (2, 4, 16)
  prompts = jnp.zeros((2, 6), jnp.int32)
  cache, _ = decoding.start(network, params, encoded, prompts, prompted=False)
  sizes = {
    x.shape
    for path, x in jax.tree_util.tree_leaves_with_path(cache)
    if 'encoder_decoder_attention' in str(path)
  }
  assert not any(16 in shape for shape in sizes), sizes
  for i in range(6):
    logits, cache = decoding.step(
      network, params, encoded, cache, jnp.asarray(shifted[:, i : i + 1])
    )
    np.testing.assert_allclose(logits, want[:, i], atol=2e-5)


@pytest.mark.parametrize('rate', [0, -2, 1.5, True, '2'])
def test_impossible_rates_are_one_line(rate):
  with pytest.raises(ValueError, match='ENCODER_OUTPUT_RATE') as error:
    _network(rate)
  assert '\n' not in str(error.value)


def test_flops_fall_by_what_cross_attention_saves():
  whole, short = (
    flops.example_flops(_network(rate).config, 32, 8, packed=False)
    for rate in (1, 4)
  )
  # Keys and values, then scores and averages, of 24 tokens fewer.
  assert whole.decoder - short.decoder == 4 * 24 * 16 * 16 + 4 * 8 * 24 * 16
  assert short.encoder - whole.encoder == 2 * 8 * 32 * 16
