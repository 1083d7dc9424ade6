"""Golden values of Hugging Face's FNet and BERT.

torch 2.13.0 and transformers 5.24.0, from the repository's root:

  PYTHONPATH=tests/helpers:. python tests/golden/fnet.py > fnet.json

Parameters and inputs are drawn from their names (`helpers/fnet_reference.py`).
"""

import json

import fnet_reference
import numpy as np

from fnet_t5x.networks import fnet

SIZES = {
  'vocab_size': 11,
  'emb_dim': 8,
  'mlp_dim': 12,
  'num_layers': 3,
  'num_heads': 2,
}
# Mixing, length of the rows, and of the position table.
CASES = {
  'fnet_short': ('fourier', 6, 16),
  'fnet_padded_to_512': ('fourier', 512, 512),
  'bert': ('attention', 10, 16),
}


def make_case(name):
  """Returns configuration, parameters, tokens and types of a case."""
  mixing, length, max_length = CASES[name]
  config = fnet.FNetConfig(
    max_length=max_length, layer_mixing=(mixing,) * 3, **SIZES
  )
  params = fnet_reference.parameters(fnet.FNet(config))
  if mixing == 'attention':  # Hugging Face's BERT projects no embeddings.
    params['encoder']['embedder']['hidden_mapping_in'] = {
      'kernel': np.eye(8, dtype=np.float32),
      'bias': np.zeros(8, np.float32),
    }
  random = np.random.default_rng(0)
  tokens = random.integers(1, 11, (2, length))
  types = random.integers(0, 4, (2, length))
  if name != 'fnet_short':
    tokens[0, 5:] = types[0, 5:] = 0
    tokens[1, 9:] = types[1, 9:] = 0
  return config, params, tokens, types


def pick(outputs):
  """Returns what is recorded: of rows, the first three positions."""
  return {
    name: value[:, :3] if value.ndim == 3 else value
    for name, value in outputs.items()
  }


if __name__ == '__main__':
  import fnet_huggingface  # needs torch

  values = {
    name: {
      key: np.asarray(value).tolist()
      for key, value in pick(fnet_huggingface.outputs(*make_case(name))).items()
    }
    for name in CASES
  }
  print(json.dumps(values))
