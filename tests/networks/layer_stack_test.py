"""Scanned layers, and layers with remat, against unrolled ones without."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scanned_networks
from checkout import GOLDEN_DIR
from flax.traverse_util import flatten_dict, unflatten_dict
from scanned_networks import hybrid, initialise, scanned_params

from fnet_t5x.networks import layer_stack, t5

GOLDEN = json.loads((GOLDEN_DIR / 'scalable_t5.json').read_text())
SIZES = {
  name: value
  for name, value in scanned_networks.SIZES.items()
  if name not in ('encoder_mixing', 'max_encoder_length')
}
MIXING = scanned_networks.SIZES['encoder_mixing']
ALL_MIXING = ('none', 'linear', 'linear', 'fourier', 'attention', 'fourier')

GATED_MIXING = ('toeplitz',) + 2 * ('toeplitz_gated_dependent',) + ('hartley',)


def t5_network(**choices):
  return t5.Transformer(t5.T5Config(**SIZES | choices))


def batch(packed=False):
  random = np.random.default_rng(0)
  inputs = random.integers(2, 31, (4, 9))
  targets = random.integers(2, 31, (4, 6))
  inputs[1, 6:] = 0
  shifted = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
  named = {
    'encoder_input_tokens': inputs,
    'decoder_input_tokens': shifted,
    'decoder_target_tokens': targets,
  }
  if packed:
    named['encoder_segment_ids'] = np.where(inputs, 1 + (np.arange(9) > 3), 0)
    named['decoder_segment_ids'] = np.broadcast_to(
      1 + (np.arange(6) > 2), targets.shape
    )
  return {name: jnp.asarray(x, jnp.int32) for name, x in named.items()}


def loss_and_gradients(module, params, packed=False, **options):
  inputs = batch(packed)

  @jax.jit
  @jax.value_and_grad
  def loss(params):
    logits = module.apply(
      {'params': params}, **inputs, **{'enable_dropout': False, **options}
    )
    log_probs = jax.nn.log_softmax(logits)
    targets = inputs['decoder_target_tokens']
    return -jnp.take_along_axis(log_probs, targets[..., None], -1).mean()

  value, gradients = loss(params)
  return value, flatten_dict(gradients, sep='/')


def _flat(tree):
  return flatten_dict(tree, sep='/')


def assert_close(got, want, rtol=1e-5):
  """Compares arrays with errors relative to each one's largest entry."""
  assert got.keys() == want.keys()
  for name, x in want.items():
    error = np.abs(np.asarray(got[name]) - x).max()
    assert error <= rtol * np.abs(x).max() + 1e-9, (name, error)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('mixing', 'packed', 'remat'),
  [
    (MIXING, False, 'minimal'),
    (ALL_MIXING, True, 'none'),
    (GATED_MIXING, False, 'minimal'),
  ],
  ids=['hybrid with remat', 'all mixings, packed', 'gated with remat'],
)
def test_scanned_losses_and_gradients(mixing, packed, remat):
  choices = {
    'encoder_mixing': mixing,
    'num_encoder_layers': len(mixing),
    'num_decoder_layers': 1,
  }
  plain = hybrid(**choices, relpos_bias_per_layer=True)
  params = initialise(plain)['params']
  want, want_gradients = loss_and_gradients(plain, params, packed)
  scanned = hybrid(**choices, scan_layers=True, remat_policy=remat)
  got, gradients = loss_and_gradients(scanned, scanned_params(params), packed)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  want_gradients = _flat(scanned_params(unflatten_dict(want_gradients, '/')))
  assert_close(gradients, want_gradients)


@pytest.mark.slow
def test_shared_biases_are_copied_and_their_gradients_added():
  params = initialise(t5_network())['params']
  want, gradients = loss_and_gradients(t5_network(), params)
  scanned = t5_network(scan_layers=True)
  got, each = loss_and_gradients(scanned, scanned_params(params))
  np.testing.assert_allclose(got, want, rtol=1e-5)
  for side in ('encoder', 'decoder'):
    shared = gradients[f'{side}/relpos_bias/rel_embedding']
    layers = each[f'{side}/{side}/relpos_bias/rel_embedding']
    assert_close({'sum': layers.sum(layer_stack.SCAN_AXIS)}, {'sum': shared})


SMALL = {
  'encoder_mixing': ('fourier', 'attention'),
  'num_encoder_layers': 2,
  'num_decoder_layers': 1,
}


@pytest.mark.slow
@pytest.mark.parametrize('policy', ['minimal', 'full'])
def test_remat_leaves_gradients_unchanged(policy):
  params = initialise(hybrid(**SMALL))['params']
  dropout = {'enable_dropout': True, 'rngs': {'dropout': jax.random.key(1)}}
  plain = hybrid(**SMALL, dropout_rate=0.1)
  want, want_gradients = loss_and_gradients(plain, params, **dropout)
  module = hybrid(**SMALL, dropout_rate=0.1, remat_policy=policy)
  got, gradients = loss_and_gradients(module, params, **dropout)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  assert_close(gradients, want_gradients)


def saved_bytes(scan, policy):
  """Returns the bytes that the forward pass saves for the backward pass."""
  module = hybrid(**SMALL, remat_policy=policy, scan_layers=scan)
  inputs = batch()
  params = jax.eval_shape(lambda: initialise.__wrapped__(module))['params']

  def loss(params):
    return module.apply(
      {'params': params}, **inputs, enable_dropout=False
    ).sum()

  residuals = jax.eval_shape(lambda p: jax.vjp(loss, p)[1], params)
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(residuals))


@pytest.mark.slow
@pytest.mark.parametrize('scan', [False, True])
def test_policies_save_less(scan):
  saved = {p: saved_bytes(scan, p) for p in layer_stack.RematPolicy.__args__}
  assert saved['full'] < 0.8 * saved['minimal'] < 0.64 * saved['none']
  assert saved['full'] == saved['nothing_saveable']
  # 'minimal' also saves the output of the one Fourier mixing.
  mixed = saved['minimal'] - saved['dots_with_no_batch_dims_saveable']
  assert mixed == 4 * 9 * SIZES['emb_dim'] * 4
  assert saved['dots_with_no_batch_dims_saveable'] < saved['dots_saveable']
  assert saved['dots_saveable'] < saved['everything_saveable']


def generate(module, params, steps=4):
  """Returns logits of a two-token prefill, then of decoding steps."""
  inputs = batch()['encoder_input_tokens']
  tokens = batch()['decoder_target_tokens']
  variables = {'params': params}
  call = functools.partial(module.apply, enable_dropout=False)
  ones = jnp.ones_like(tokens)
  cache = jax.jit(functools.partial(call, decode=True, mutable=['cache']))(
    variables, jnp.ones_like(inputs), ones, ones
  )[1]
  encoded = call(variables, inputs, method=module.encode)
  decode = functools.partial(call, mutable=['cache'], method=module.decode)
  lengths = jnp.array([2, 0, 1, 2])
  logits, cache = jax.jit(functools.partial(decode, prefill=True))(
    variables | cache,
    encoded,
    inputs,
    tokens[:, :2],
    ones[:, :2],
    prefill_lengths=lengths,
  )
  found = [logits]
  step = jax.jit(functools.partial(decode, decode=True))
  for i in range(steps):
    token = tokens[:, i : i + 1]
    # NaN: a step reads the projections that the prefill cached.
    logits, cache = step(
      variables | cache, encoded * jnp.nan, inputs, token, token
    )
    found.append(logits)
  return jnp.concatenate(found, axis=1), cache['cache']


@pytest.mark.slow
@pytest.mark.parametrize('per_layer', [False, True])
def test_scanned_decoding(per_layer):
  plain = hybrid(relpos_bias_per_layer=per_layer)
  params = initialise(plain)['params']
  want, _ = generate(plain, params)
  got, cache = generate(hybrid(scan_layers=True), scanned_params(params))
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  # Layers first, then the batch: T5X's `cache_offset` of 1.
  shapes = {k: v.shape[:2] for k, v in _flat(cache).items()}
  assert {s for n, s in shapes.items() if 'relpos' not in n} == {(2, 4)}


def test_unknown_policy():
  with pytest.raises(ValueError, match="remat_policy='some' is not known"):
    t5.T5Config(**SIZES, remat_policy='some')


def test_runs_of_like_layers():
  assert list(layer_stack.runs('aab', 'encoder')) == [
    ('encoder_0', 'a', 2),
    ('encoder_1', 'b', 1),
  ]
  assert list(layer_stack.runs('aa', 'encoder')) == [('encoder', 'a', 2)]


def scalable_t5(dropout_rate=0.0):
  config = GOLDEN['sizes'] | GOLDEN['config']
  return t5_network(**config, dropout_rate=dropout_rate, scan_layers=True)


@functools.cache
def scalable_variables():
  ones = jnp.ones((3, 7)), jnp.ones((3, 5)), jnp.ones((3, 5))
  init = functools.partial(scalable_t5().init, enable_dropout=False)
  return jax.jit(init)(jax.random.key(GOLDEN['init_seed']), *ones)


@pytest.mark.slow
def test_scanned_parameters_are_t5x_s():
  variables = scalable_variables()
  axes = _flat(variables['params_axes'])
  got = {
    name: {
      'shape': list(value.shape),
      'axes': list(axes[f'{name}_axes'].names),
      'first': pytest.approx(float(value.ravel()[0]), rel=1e-6),
      'norm': pytest.approx(float(jnp.linalg.norm(value)), rel=1e-6),
    }
    for name, value in _flat(variables['params']).items()
  }
  assert got == GOLDEN['parameters']


@pytest.mark.slow
@pytest.mark.parametrize('dropout_rate', [0.0, 0.1])
def test_scanned_losses_and_gradients_are_t5x_s(dropout_rate):
  params = scalable_variables()['params']
  inputs = {k: jnp.asarray(v) for k, v in GOLDEN['batch'].items()}
  module = scalable_t5(dropout_rate)

  @jax.jit
  @jax.value_and_grad
  def loss(params):
    logits = module.apply(
      {'params': params},
      **inputs,
      enable_dropout=dropout_rate > 0,
      rngs={'dropout': jax.random.key(GOLDEN['dropout_seed'])},
    )
    targets = inputs['decoder_target_tokens']
    picked = jnp.take_along_axis(
      jax.nn.log_softmax(logits), targets[..., None], axis=-1
    )[..., 0]
    return -jnp.sum(picked * (targets > 0))

  value, gradients = loss(params)
  want = GOLDEN['runs'][str(dropout_rate)]
  np.testing.assert_allclose(value, want['loss'], rtol=1e-6)
  got = {k: float(jnp.linalg.norm(v)) for k, v in _flat(gradients).items()}
  assert got == pytest.approx(want['grad_norms'], rel=1e-4)
