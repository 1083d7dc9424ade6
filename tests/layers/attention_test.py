import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.layers.attention import (
  MultiHeadDotProductAttention,
  dot_product_attention,
)

HEADS, KV, EMBED = 2, 4, 6
RANDOM = np.random.default_rng(0)


def softmax_attention(query, key, value, bias):
  """Attention in float64, one query at a time."""
  out = np.zeros(query.shape)
  for b, q, h in np.ndindex(*query.shape[:3]):
    logits = key[b, :, h] @ query[b, q, h] + bias[b, h, q]
    weights = np.exp(logits - logits.max())
    out[b, q, h] = weights @ value[b, :, h] / weights.sum()
  return out


def test_attention_core_against_float64():
  query = RANDOM.normal(size=(2, 3, HEADS, KV))
  key, value = RANDOM.normal(size=(2, 2, 5, HEADS, KV))
  bias = RANDOM.normal(size=(2, HEADS, 3, 5))
  got = dot_product_attention(
    *(jnp.asarray(x, jnp.float32) for x in (query, key, value, bias))
  )
  want = softmax_attention(query, key, value, bias)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_layer_against_float64():
  x = RANDOM.normal(size=(2, 3, EMBED)).astype(np.float32)
  memory = RANDOM.normal(size=(2, 5, EMBED)).astype(np.float32)
  mask = np.ones((2, 1, 3, 5))
  mask[1, :, :, 3:] = 0
  layer = MultiHeadDotProductAttention(num_heads=HEADS, head_dim=KV)
  got, variables = layer.init_with_output(
    jax.random.key(0), x, memory, mask, deterministic=True
  )
  kernels = {
    name: np.asarray(leaf['kernel'], np.float64)
    for name, leaf in variables['params'].items()
  }

  def heads(inputs, name):
    return (inputs @ kernels[name]).reshape(2, -1, HEADS, KV)

  bias = np.broadcast_to(np.where(mask > 0, 0, -np.inf), (2, HEADS, 3, 5))
  attended = softmax_attention(
    heads(x, 'query'), heads(memory, 'key'), heads(memory, 'value'), bias
  )
  want = attended.reshape(2, 3, HEADS * KV) @ kernels['out']
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_output_of_a_fully_masked_query_is_finite():
  x = jnp.ones((1, 2, EMBED))
  layer = MultiHeadDotProductAttention(num_heads=HEADS, head_dim=KV)
  out, _ = layer.init_with_output(
    jax.random.key(0), x, x, jnp.zeros((1, 1, 2, 2)), deterministic=True
  )
  assert np.isfinite(out).all()


def test_dropout_is_shared_by_queries_and_keeps_the_mean():
  ones = jnp.ones((64, 3, HEADS, KV))
  out = dot_product_attention(
    ones, ones, ones, dropout_rng=jax.random.key(0), dropout_rate=0.25
  )
  np.testing.assert_array_equal(out, jnp.broadcast_to(out[:, :1], out.shape))
  assert abs(float(out.mean()) - 1.0) < 0.1
  assert float(out.std()) > 0.1


def test_dropout_may_differ_between_queries():
  query, key = jnp.zeros((1, 40, 1, 2)), jnp.zeros((1, 50, 1, 2))
  got = dot_product_attention(
    query,
    key,
    jnp.eye(50)[None, :, None],
    dropout_rng=jax.random.key(0),
    dropout_rate=0.5,
    broadcast_dropout=False,
  )
  kept = np.asarray(got[0, :, 0]) > 0
  assert (kept[0] != kept[1]).any()
  assert abs(kept.mean() - 0.5) < 0.05


def test_divided_queries_are_those_of_a_smaller_initial_kernel():
  x = RANDOM.normal(size=(1, 3, EMBED)).astype(np.float32)
  sizes = {'num_heads': HEADS, 'head_dim': KV}
  t5, bert = (
    MultiHeadDotProductAttention(**sizes, divide_query=divide)
    for divide in (False, True)
  )
  want, variables = t5.init_with_output(
    jax.random.key(0), x, x, deterministic=True
  )
  params = dict(variables['params'])
  params['query'] = {'kernel': params['query']['kernel'] * KV**0.5}
  got = bert.apply({'params': params}, x, x, deterministic=True)
  np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_float32_logits_separate_close_large_logits():
  # Logits 256 and 256.75; bfloat16 has steps of 2 there.
  query = jnp.array([16.0, 1.0], jnp.bfloat16).reshape(1, 1, 1, 2)
  key = jnp.array([[16, 0], [16, 0.75]], jnp.bfloat16).reshape(1, 2, 1, 2)
  value = jnp.eye(2, dtype=jnp.bfloat16).reshape(1, 2, 1, 2)

  def weights(float32_logits):
    return dot_product_attention(
      query, key, value, dtype=jnp.bfloat16, float32_logits=float32_logits
    ).ravel()

  second = 1 / (1 + np.exp(-0.75))
  np.testing.assert_allclose(weights(True), [1 - second, second], rtol=5e-3)
  np.testing.assert_array_equal(weights(False), [0.5, 0.5])


def decode_all(layer, params, x, cache, prompt=0):
  outputs = []
  for i in range(prompt, x.shape[1]):
    step = x[:, i : i + 1]
    out, cache = layer.apply(
      {'params': params, **cache},
      step,
      step,
      decode=True,
      deterministic=True,
      mutable=['cache'],
    )
    outputs.append(out)
  return jnp.concatenate(outputs, axis=1)


def self_attention():
  x = jnp.asarray(RANDOM.normal(size=(2, 5, EMBED)), jnp.float32)
  layer = MultiHeadDotProductAttention(num_heads=HEADS, head_dim=KV)
  whole, variables = layer.init_with_output(
    jax.random.key(0), x, x, jnp.tril(jnp.ones((2, 1, 5, 5))), None,
    deterministic=True,
  )  # fmt: skip
  _, cache = layer.apply(
    {'params': variables['params']},
    x,
    x,
    decode=True,
    deterministic=True,
    mutable=['cache'],
  )
  return layer, variables['params'], x, whole, cache


def test_decoding_steps_equal_one_causal_call():
  layer, params, x, whole, cache = self_attention()
  got = decode_all(layer, params, x, cache)
  np.testing.assert_allclose(got, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('shape', [(2,), (2, 1)])
def test_cache_index_per_row_and_per_beam(shape):
  layer, params, x, whole, cache = self_attention()
  cache['cache']['cache_index'] = jnp.zeros(shape, jnp.int32)
  got = decode_all(layer, params, x, cache)
  np.testing.assert_allclose(got, whole, rtol=1e-5, atol=1e-6)


def test_inputs_that_do_not_fit_the_cache():
  layer, params, x, _, cache = self_attention()
  options = {'deterministic': True, 'mutable': ['cache']}
  with pytest.raises(ValueError, match='one token per row'):
    layer.apply({'params': params, **cache}, x, x, decode=True, **options)
  lengths = jnp.array([1, 1])
  with pytest.raises(ValueError, match='there is no cache'):
    layer.apply({'params': params}, x, x, prefill_lengths=lengths, **options)
  longer = jnp.concatenate([x, x], axis=1)
  with pytest.raises(ValueError, match=r'10 tokens do not fit .* cache of 5'):
    layer.apply(
      {'params': params, **cache},
      longer,
      longer,
      prefill_lengths=lengths,
      **options,
    )


def test_cross_attention_serves_beams_from_one_row():
  memory = jnp.asarray(RANDOM.normal(size=(2, 5, EMBED)), jnp.float32)
  queries = jnp.asarray(RANDOM.normal(size=(6, 1, EMBED)), jnp.float32)
  mask = jnp.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])[:, None, None, :]
  layer = MultiHeadDotProductAttention(
    num_heads=HEADS, head_dim=KV, cross_attention=True
  )
  wide = jnp.repeat(memory, 3, axis=0), jnp.repeat(mask, 3, axis=0)
  want, variables = layer.init_with_output(
    jax.random.key(0), queries, *wide, deterministic=True
  )
  params = variables['params']
  _, cache = layer.apply(
    {'params': params},
    memory,
    memory,
    prefill_lengths=jnp.zeros(2, jnp.int32),
    deterministic=True,
    mutable=['cache'],
  )
  assert jax.tree.map(jnp.shape, cache['cache']['cached_cross_key']) == {
    'cached_bias': (2, HEADS, KV, 5)
  }
  got = layer.apply(
    {'params': params, **cache},
    queries,
    jnp.full_like(wide[0], jnp.nan),
    wide[1],
    decode=True,
    deterministic=True,
  )
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
