"""Attention by lengths against attention by masks; cuDNN against XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo
from jax.sharding import AxisType

from fnet_t5x.backend import target_backend
from fnet_t5x.layers import fused_attention, masks
from fnet_t5x.layers.attention import (
  MASKED_LOGIT,
  MultiHeadDotProductAttention,
  dot_product_attention,
)
from fnet_t5x.networks import fnet_t5

BATCH, HEADS, KV = 3, 2, 8
LENGTHS = {'queries': np.array([6, 4, 1]), 'keys': np.array([10, 7, 2])}


def make_problem(causal, biased, dtype=jnp.float32):
  """Returns attention's arguments, a mask, and where queries are tokens."""
  random = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(random.normal(size=shape), dtype)

  queries = LENGTHS['queries']
  keys = queries if causal else LENGTHS['keys']
  q_length, kv_length = 6, keys.max()
  tokens = np.arange(kv_length) < keys[:, None]
  real = np.arange(q_length) < queries[:, None]
  if causal:
    array = masks.make_decoder_mask(jnp.asarray(tokens, jnp.int32), dtype)
  else:
    array = masks.make_attention_mask(real, tokens, dtype=dtype)
  mask = masks.LengthMask(array, masks.lengths_of(tokens), causal)
  bias = normal(1, HEADS, q_length, kv_length) if biased else None
  query = normal(BATCH, q_length, HEADS, KV)
  key, value = (normal(BATCH, kv_length, HEADS, KV) for _ in range(2))
  return (query, key, value, bias), mask, real[..., None, None]


def by_mask(query, key, value, bias, mask):
  hidden = jnp.where(mask.array > 0, 0, MASKED_LOGIT).astype(query.dtype)
  bias = masks.combine_biases(hidden, bias)
  return dot_product_attention(query, key, value, bias, dtype=query.dtype)


def by_lengths(query, key, value, bias, mask):
  # JAX's XLA implementation of the same call: cuDNN needs a GPU.
  return fused_attention.attend_by_lengths(
    query, key, value, mask, bias, implementation='xla'
  )


def outputs_and_gradients(function, arguments, mask, real):
  """Returns them as float32; the loss ignores padding queries."""
  known = [x for x in arguments if x is not None]

  def loss(*known):
    out = function(*known, *[None] * (4 - len(known)), mask)
    out = jnp.where(real, out.astype(jnp.float32), 0)
    return jnp.sum(jnp.sin(out)), out

  (_, out), gradients = jax.jit(
    jax.value_and_grad(loss, range(len(known)), has_aux=True)
  )(*known)
  return [np.asarray(x, np.float32) for x in (out, *gradients)]


# bfloat16 has 8 bits: attention by masks rounds logits and weights to them,
# attention by lengths only the output. Values and gradients are of order one.
@pytest.mark.slow
@pytest.mark.parametrize(
  ('dtype', 'tolerance'), [(jnp.float32, 2e-6), (jnp.bfloat16, 6e-2)]
)
@pytest.mark.parametrize('biased', [False, True])
@pytest.mark.parametrize('causal', [False, True])
def test_lengths_equal_masks(causal, biased, dtype, tolerance):
  problem = make_problem(causal, biased, dtype)
  got = outputs_and_gradients(by_lengths, *problem)
  want = outputs_and_gradients(by_mask, *problem)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, atol=tolerance)


def test_lengths_count_up_to_the_last_token():
  tokens = jnp.array([[3, 4, 0], [0, 0, 0], [5, 0, 6], [1, 2, 3]])
  np.testing.assert_array_equal(masks.lengths_of(tokens), [2, 0, 3, 3])


def test_a_row_without_tokens_is_finite():
  (query, key, value, _), mask, _ = make_problem(False, False)
  mask = mask.replace(key_lengths=jnp.zeros(BATCH, jnp.int32))
  assert np.isfinite(by_lengths(query, key, value, None, mask)).all()


def shaped(*shape, dtype=jnp.bfloat16):
  return jax.ShapeDtypeStruct(shape, dtype)


LENGTH_MASK = masks.LengthMask(
  shaped(4, 1, 6, 10), shaped(4, dtype=jnp.int32), causal=False
)
FITTING = {
  'query': shaped(4, 6, 8, 64),
  'key': shaped(4, 10, 8, 64),
  'mask': LENGTH_MASK,
  'bias': shaped(1, 8, 6, 10),
  'dropout': False,
}
MISFITS = {
  'float32': {'query': shaped(4, 6, 8, 64, dtype=jnp.float32)},
  'HEAD_DIM=60': {'query': shaped(4, 6, 8, 60)},
  'HEAD_DIM=256': {'query': shaped(4, 6, 8, 256)},
  'DROPOUT_RATE = 0.0': {'dropout': True},
  'PACK = False': {'mask': shaped(4, 1, 6, 10)},
  r'shape \(4, 8, 6, 10\)': {'bias': shaped(4, 8, 6, 10)},
  r'axes must be \(1, 8\)': {'bias': shaped(1, 1, 6, 10)},
  'must be even': {'key': shaped(4, 9, 8, 64)},
}


@pytest.fixture
def h100(monkeypatch):
  """Pretends that programs are for an H100, and that JAX finds cuDNN."""

  class Versions:
    @staticmethod
    def cudnn_get_version():
      return 91000

  monkeypatch.setattr(fused_attention, 'cuda_capability', lambda: (9, 0))
  monkeypatch.setattr(fused_attention_stablehlo, 'cuda_versions', Versions)


@pytest.mark.usefixtures('h100')
def test_auto_is_cudnn_where_supported():
  choose = fused_attention.choose_implementation
  for fitting in (FITTING, FITTING | {'bias': None}, FITTING | {'mask': None}):
    assert choose('auto', **fitting) == 'cudnn'
    assert choose('cudnn', **fitting) == 'cudnn'
    assert choose('xla', **fitting) == 'xla'


@pytest.mark.usefixtures('h100')
@pytest.mark.parametrize('reason', MISFITS)
def test_unsupported_calls_use_xla_or_fail_with_the_reason(reason):
  misfit = FITTING | MISFITS[reason]
  choose = fused_attention.choose_implementation
  assert choose('auto', **misfit) == 'xla'
  with pytest.raises(ValueError, match=reason) as error:
    choose('cudnn', **misfit)
  assert '\n' not in str(error.value)


def test_other_backends_and_older_gpus_use_xla(monkeypatch):
  choose = fused_attention.choose_implementation
  assert choose('auto', **FITTING) == 'xla'
  with pytest.raises(ValueError, match=r'needs a CUDA GPU.*cpu'):
    choose('cudnn', **FITTING)
  # Ahead-of-time compilation for a GPU on a machine without one.
  with target_backend('gpu'):
    assert choose('auto', **FITTING) == 'xla'
  monkeypatch.setattr(fused_attention, 'cuda_capability', lambda: (7, 5))
  assert choose('auto', **FITTING) == 'xla'
  with pytest.raises(ValueError, match=r'8\.0.*7\.5'):
    choose('cudnn', **FITTING)


@pytest.mark.usefixtures('h100')
def test_several_devices_use_xla_unless_cudnn_is_requested():
  choose = fused_attention.choose_implementation
  mesh = jax.make_mesh((8, 1), ('data', 'model'), (AxisType.Auto,) * 2)
  with jax.set_mesh(mesh):
    assert choose('auto', **FITTING) == 'xla'
    assert choose('cudnn', **FITTING) == 'cudnn'


def training_program(**choices):
  """Lowers a hybrid's gradients for CUDA."""
  config = fnet_t5.FNetT5Config(
    vocab_size=32,
    dtype=choices.pop('dtype', jnp.bfloat16),
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=16,
    num_encoder_layers=2,
    num_decoder_layers=2,
    encoder_mixing=('none', 'attention'),
    **{'dropout_rate': 0.0} | choices,
  )
  module = fnet_t5.Transformer(config)
  tokens = shaped(2, 10, dtype=jnp.int32), *[shaped(2, 6, dtype=jnp.int32)] * 2
  variables = jax.eval_shape(
    lambda *x: module.init(jax.random.key(0), *x, enable_dropout=False), *tokens
  )

  def loss(params, *tokens):
    rngs = {'dropout': jax.random.key(1)}
    return jnp.sum(module.apply({'params': params}, *tokens, rngs=rngs))

  step = jax.jit(jax.grad(loss))
  lowered = step.trace(variables['params'], *tokens).lower(
    lowering_platforms=('cuda',)
  )
  return lowered.as_text()


@pytest.mark.slow
@pytest.mark.usefixtures('h100')
@pytest.mark.parametrize('scan_layers', [False, True])
def test_programs_for_cuda_call_cudnn(scan_layers):
  text = training_program(scan_layers=scan_layers)
  layers = 1 if scan_layers else 2
  # Self-attention has a bias, cross-attention has none.
  for target, calls in (
    ('Softmax(', layers),
    ('SoftmaxBackward(', layers),
    ('ScaleBiasSoftmax(', layers + 1),
    ('ScaleBiasSoftmaxBackward(', layers + 1),
  ):
    assert text.count(f'@__cudnn$fmha{target}') == calls, target
  assert 'PADDING_CAUSAL' in text
  # No weights [batch, heads, q_length, kv_length] are left.
  assert 'tensor<2x2x6x10x' not in text


@pytest.mark.slow
@pytest.mark.usefixtures('h100')
@pytest.mark.parametrize(
  'choices',
  [
    {'dropout_rate': 0.1},
    {'dtype': jnp.float32},
    {'attention_implementation': 'xla'},
  ],
)
def test_programs_for_cuda_without_cudnn(choices):
  text = training_program(**choices)
  assert 'cudnn' not in text and 'tensor<2x2x6x10x' in text


@pytest.mark.slow
def test_decoding_with_a_cache_uses_xla_even_if_cudnn_is_requested():
  x = jnp.ones((1, 4, 6))
  layer = MultiHeadDotProductAttention(2, 8, implementation='cudnn')
  init = {'decode': True, 'deterministic': True, 'mutable': ['cache']}
  with pytest.raises(ValueError, match='needs a CUDA GPU'):
    layer.init(jax.random.key(0), x, x)
  params = MultiHeadDotProductAttention(2, 8).init(jax.random.key(0), x, x)
  _, cache = layer.apply(params, x, x, **init)
  out, _ = layer.apply(params | cache, x[:, :1], x[:, :1], **init)
  assert out.shape == (1, 1, 6)


def test_unknown_implementations_are_rejected():
  with pytest.raises(ValueError, match='auto, xla, cudnn'):
    fnet_t5.FNetT5Config(vocab_size=32, attention_implementation='flash')
