"""FNet in float64 NumPy, with random parameters that depend on names alone."""

import zlib

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict


def parameter(path: str, shape) -> np.ndarray:
  """Returns the float32 values of a parameter, such that every one matters."""
  random = np.random.default_rng(zlib.crc32(path.encode()))
  x = 0.3 * random.normal(size=shape)
  return (x + 1 if path.endswith('scale') else x).astype(np.float32)


def parameters(module, length=4):
  """Returns random parameters with the names and shapes of a network's."""
  import jax
  import jax.numpy as jnp

  tokens = jnp.ones((1, length), jnp.int32)
  variables = jax.eval_shape(
    lambda: module.init(jax.random.key(0), tokens, enable_dropout=False)
  )
  return unflatten_dict(
    {
      path: parameter('/'.join(path), leaf.shape)
      for path, leaf in flatten_dict(variables['params']).items()
    }
  )


def _dense(x, p):
  contracted = p['kernel'].ndim - p['bias'].ndim
  return np.tensordot(x, p['kernel'], contracted) + p['bias']


def _norm(x, p):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
  return x * p['scale'] + p['bias']


def _gelu(x):
  return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _attend(x, real, p):
  """BERT's attention of one row; queries on padding average everything."""
  query, key, value = (_dense(x, p[name]) for name in ('query', 'key', 'value'))
  logits = np.einsum('qhd,khd->hqk', query, key) / np.sqrt(query.shape[-1])
  logits = np.where(real[:, None] & real[None], logits, -1e10)
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  weights = weights / weights.sum(-1, keepdims=True)
  return _dense(np.einsum('hqk,khd->qhd', weights, value), p['out'])


def encode(params, tokens, types, mixings, matrices=None):
  """Returns the hidden states [length, embed] of one row, padding included.

  Args:
    params: of the network, without heads.
    tokens: ids; 0 is padding.
    types: type ids.
    mixings: one name per layer.
    matrices: pairs (over features, over tokens), by index of random layers.
  """
  p = params['encoder']
  embedder = p['embedder']
  x = (
    embedder['word']['embedding'][tokens]
    + embedder['position']['embedding'][0, : len(tokens)]
    + embedder['type']['embedding'][types]
  ).astype(np.float64)
  x = _dense(_norm(x, embedder['layer_norm']), embedder['hidden_mapping_in'])
  for i, mixing in enumerate(mixings):
    if mixing == 'fourier':
      mixed = np.fft.fft2(x).real
    elif mixing == 'attention':
      mixed = _attend(x, tokens > 0, p[f'self_attention_{i}'])
    elif mixing == 'none':
      mixed = x
    else:
      hidden, seq = (matrices or {}).get(i) or (
        p[f'linear_transform_{i}'][f'{name}_kernel']
        for name in ('hidden', 'seq')
      )
      hidden, seq = np.float64(hidden), np.float64(seq)
      mixed = seq[: len(tokens), : len(tokens)] @ x @ hidden
    x = _norm(x + mixed, p[f'encoder_{i}']['mixing_layer_norm'])
    block = p[f'feed_forward_{i}']
    y = _dense(_gelu(_dense(x, block['intermediate'])), block['output'])
    x = _norm(x + y, p[f'encoder_{i}']['output_layer_norm'])
  return x


def heads(params, hidden):
  """Returns a dict of what the heads make of hidden states [batch, ...]."""
  pooled = np.tanh(_dense(hidden[:, 0], params['encoder']['pooler']))
  x = _gelu(_dense(hidden, params['predictions_dense']))
  x = _norm(x, params['predictions_layer_norm'])
  table = params['encoder']['embedder']['word']['embedding']
  pair = params['classification']
  outputs = {
    'hidden': hidden,
    'pooled': pooled,
    'mlm': x @ table.T + params['predictions_output']['output_bias'],
    'pair': pooled @ pair['output_kernel'].T + pair['output_bias'],
  }
  if 'class_head' in params:
    outputs['class'] = _dense(pooled, params['class_head'])
  return outputs
