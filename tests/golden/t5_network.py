"""Golden values of T5X's T5 network.

T5X at commit cc342d4, in an environment where it is importable, from here:

  JAX_PLATFORMS=cpu python t5_network.py > t5_network.json

The file includes configurations and inputs, so the tests need nothing else.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from t5x.examples.t5 import layers, network

SIZES = {
  'vocab_size': 29,
  'emb_dim': 12,
  'num_heads': 2,
  'num_encoder_layers': 2,
  'num_decoder_layers': 2,
  'head_dim': 4,
  'mlp_dim': 20,
}
CONFIGS = {
  't5_1_1': {'mlp_activations': ['gelu', 'linear']},
  't5_1_0': {'mlp_activations': ['relu'], 'logits_via_embedding': True},
}
INIT_SEED, DROPOUT_SEED = 3, 4


def batches():
  random = np.random.default_rng(0)
  inputs = random.integers(2, 29, (3, 7))
  targets = random.integers(2, 29, (3, 5))
  inputs[1, 5:] = 0
  targets[2, 3:] = 0
  shifted = np.concatenate([np.zeros((3, 1), int), targets[:, :-1]], axis=1)
  plain = {
    'encoder_input_tokens': inputs,
    'decoder_input_tokens': shifted,
    'decoder_target_tokens': targets,
  }
  packed = dict(plain)
  for side, tokens, border in (('encoder', inputs, 4), ('decoder', targets, 2)):
    index = np.arange(tokens.shape[1])[None]
    second = np.broadcast_to(index >= border, tokens.shape)
    packed[f'{side}_segment_ids'] = np.where(tokens > 0, 1 + second, 0)
    packed[f'{side}_positions'] = np.where(
      tokens > 0, index - border * second, 0
    )
  return {'plain': plain, 'packed': packed}


def losses(module, params, batch, dropout):
  def loss(params):
    logits = module.apply(
      {'params': params},
      **batch,
      enable_dropout=dropout,
      rngs={'dropout': jax.random.key(DROPOUT_SEED)},
    )
    targets = batch['decoder_target_tokens']
    picked = jnp.take_along_axis(
      jax.nn.log_softmax(logits), targets[..., None], axis=-1
    )[..., 0]
    return -jnp.sum(picked * (targets > 0)), logits

  (value, logits), grads = jax.value_and_grad(loss, has_aux=True)(params)
  return {
    'loss': float(value),
    'logits': np.asarray(logits[1, 2, :6]).tolist(),
    'grad_norms': {
      '/'.join(path): float(jnp.linalg.norm(grad))
      for path, grad in flatten_dict(grads).items()
    },
  }


def record(config):
  module = network.Transformer(network.T5Config(**SIZES, **config))
  ones = jnp.ones((3, 7)), jnp.ones((3, 5)), jnp.ones((3, 5))
  variables = module.init(
    jax.random.key(INIT_SEED), *ones, enable_dropout=False
  )
  axes = flatten_dict(variables['params_axes'])
  parameters = {
    '/'.join(path): {
      'shape': value.shape,
      'axes': axes[(*path[:-1], f'{path[-1]}_axes')].names,
      'first': float(value.ravel()[0]),
      'norm': float(jnp.linalg.norm(value)),
    }
    for path, value in flatten_dict(variables['params']).items()
  }
  runs = {
    f'{name} {rate}': losses(
      network.Transformer(
        network.T5Config(**SIZES, **config, dropout_rate=rate)
      ),
      variables['params'],
      batch,
      dropout=rate > 0,
    )
    for name, batch in batches().items()
    for rate in (0.0, 0.1)
  }
  return {'config': config, 'parameters': parameters, 'runs': runs}


def buckets():
  offsets = np.arange(-300, 301, dtype=np.int32)
  find = layers.RelativePositionBiases._relative_position_bucket
  return {
    'offsets': [-300, 301],
    'bidirectional': find(offsets, True, 32, 128).tolist(),
    'causal': find(offsets, False, 32, 128).tolist(),
  }


if __name__ == '__main__':
  content = {
    'source': 't5x.examples.t5 at cc342d4, by tests/golden/t5_network.py',
    'sizes': SIZES,
    'init_seed': INIT_SEED,
    'dropout_seed': DROPOUT_SEED,
    'batches': {
      name: {key: value.tolist() for key, value in batch.items()}
      for name, batch in batches().items()
    },
    'networks': {name: record(config) for name, config in CONFIGS.items()},
    'relative_position_buckets': buckets(),
  }
  print(json.dumps(content))
