"""Golden values of T5X's T5 with scanned layers.

T5X at commit cc342d4, in an environment where it is importable, from here:

  JAX_PLATFORMS=cpu python scalable_t5.py > scalable_t5.json

Sizes, seeds and inputs are those of t5_network.py; the file includes them.
"""

import json

import jax
import jax.numpy as jnp
import t5_network
from flax.traverse_util import flatten_dict
from t5x.examples.scalable_t5 import network

CONFIG = {'mlp_activations': ['gelu', 'linear']}


def transformer(dropout_rate=0.0):
  config = t5_network.SIZES | CONFIG
  return network.Transformer(
    network.T5Config(**config, dropout_rate=dropout_rate, scan_layers=True)
  )


def record():
  ones = jnp.ones((3, 7)), jnp.ones((3, 5)), jnp.ones((3, 5))
  variables = transformer().init(
    jax.random.key(t5_network.INIT_SEED), *ones, enable_dropout=False
  )
  axes = flatten_dict(variables['params_axes'], sep='/')
  batch = t5_network.batches()['plain']
  runs = {}
  for rate in (0.0, 0.1):
    run = t5_network.losses(
      transformer(rate), variables['params'], batch, dropout=rate > 0
    )
    runs[str(rate)] = {'loss': run['loss'], 'grad_norms': run['grad_norms']}
  return {
    'source': 't5x.examples.scalable_t5 at cc342d4, '
    'by tests/golden/scalable_t5.py',
    'sizes': t5_network.SIZES,
    'config': CONFIG,
    'init_seed': t5_network.INIT_SEED,
    'dropout_seed': t5_network.DROPOUT_SEED,
    'batch': {key: value.tolist() for key, value in batch.items()},
    'parameters': {
      name: {
        'shape': value.shape,
        'axes': axes[f'{name}_axes'].names,
        'first': float(value.ravel()[0]),
        'norm': float(jnp.linalg.norm(value)),
      }
      for name, value in flatten_dict(variables['params'], sep='/').items()
    },
    'runs': runs,
  }


if __name__ == '__main__':
  print(json.dumps(record()))
