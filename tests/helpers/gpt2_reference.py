"""GPT-2 in float64 NumPy, with random parameters that depend on names alone."""

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from fnet_reference import parameter


def parameters(module):
  """Returns random parameters with the names and shapes of a network's."""
  tokens = jnp.ones((1, 4), jnp.int32)
  variables = jax.eval_shape(
    lambda: module.init(jax.random.key(0), tokens, tokens, enable_dropout=False)
  )
  return unflatten_dict(
    {
      path: parameter('/'.join(path), leaf.shape)
      for path, leaf in flatten_dict(variables['params']).items()
    }
  )


def _dense(x, p):
  return x @ np.float64(p['kernel']) + p['bias']


def _norm(x, p):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
  return x * p['scale'] + p['bias']


def _gelu(x):
  return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _attend(x, visible, p, heads):
  split = (len(x), heads, -1)
  query, key, value = (
    _dense(x, p[name]).reshape(split) for name in ('query', 'key', 'value')
  )
  logits = np.einsum('qhd,khd->hqk', query, key) / np.sqrt(query.shape[-1])
  logits = np.where(visible, logits, -np.inf)
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  weights = weights / weights.sum(-1, keepdims=True)
  mixed = np.einsum('hqk,khd->qhd', weights, value)
  return _dense(mixed.reshape(len(x), -1), p['out'])


def logits(params, tokens, prefix, layers, heads):
  """Returns the logits [length, vocab] of one row without padding.

  Args:
    params: of the network.
    tokens: input ids.
    prefix: number of positions that see one another.
    layers: depth.
    heads: attention heads.
  """
  table = np.float64(params['token_embedder']['embedding'])
  p = params['decoder']
  x = table[tokens] + p['position_embedder']['embedding'][: len(tokens)]
  places = np.arange(len(tokens))
  visible = places[None] <= places[:, None]
  visible |= (places[None] < prefix) & (places[:, None] < prefix)
  for i in range(layers):
    layer = p[f'layers_{i}']
    y = _norm(x, layer['pre_self_attention_layer_norm'])
    x = x + _attend(y, visible, layer['self_attention'], heads)
    y = _norm(x, layer['pre_mlp_layer_norm'])
    y = _gelu(_dense(y, layer['mlp']['wi']))
    x = x + _dense(y, layer['mlp']['wo'])
  return _norm(x, p['decoder_norm']) @ table.T
