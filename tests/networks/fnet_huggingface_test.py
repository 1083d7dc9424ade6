"""FNet and BERT against Hugging Face's, where torch is installed."""

import numpy as np
import pytest
from golden import fnet as golden

pytest.importorskip('torch')
pytest.importorskip('transformers')

import fnet_huggingface
import fnet_reference
import jax

from fnet_t5x.networks import fnet


def largest_errors(config, params, tokens, types):
  """Returns by output the largest error, relative to the largest element.

  Only tokens count: on padding, BERT's attention has no meaning.
  """
  module = fnet.FNet(config)

  @jax.jit
  def forward(params):
    def apply(method, *inputs, **options):
      return module.apply({'params': params}, *inputs, method=method, **options)

    hidden = apply(module.encode, tokens, types, enable_dropout=False)
    pooled = apply(module.pool, hidden)
    mlm = apply(module.mlm_logits, hidden)
    pair = apply(module.pair_logits, pooled)
    return {'hidden': hidden, 'pooled': pooled, 'mlm': mlm, 'pair': pair}

  got = forward(params)
  want = fnet_huggingface.outputs(config, params, tokens, types)
  real = tokens > 0
  errors = {}
  for name, value in want.items():
    ours = np.asarray(got[name], np.float64)
    if value.ndim == 3:
      ours, value = ours[real], value[real]
    errors[name] = np.abs(ours - value).max() / np.abs(value).max()
  return errors


@pytest.mark.parametrize('name', golden.CASES)
def test_small_networks(name):
  errors = largest_errors(*golden.make_case(name))
  assert max(errors.values()) < 1e-5, errors


@pytest.mark.slow
@pytest.mark.parametrize('length', [512, 40])
def test_base(length):
  errors = largest_errors(*base_case(length))
  assert max(errors.values()) < 1e-5, errors


def base_case(length):
  """Returns what `golden.make_case` does, of FNet-Base; one padded row."""
  config = fnet.FNetConfig()
  # Scales are about 1, all others the size of trained values.
  params = jax.tree_util.tree_map_with_path(
    lambda path, x: x if path[-1].key == 'scale' else x / 10,
    fnet_reference.parameters(fnet.FNet(config)),
  )
  random = np.random.default_rng(0)
  tokens = random.integers(1, 32000, (1, length))
  types = random.integers(0, 2, (1, length))
  tokens[0, 30:] = 0
  return config, params, tokens, types
