import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkout import GOLDEN_DIR

from fnet_t5x.layers.relative_position import (
  RelativePositionBiases,
  relative_position_bucket,
)

GOLDEN = json.loads((GOLDEN_DIR / 't5_network.json').read_text())[
  'relative_position_buckets'
]
OFFSETS = np.arange(*GOLDEN['offsets'])


def bucket_in_integers(offset, bidirectional):
  """T5's buckets for 32 and 128 without rounding: powers instead of logs."""
  if bidirectional:
    # 8 + floor(8 log(d / 8) / log 16): the largest k with d^2 >= 8^2 2^k.
    first, distance, exact, last = 16 * (offset > 0), abs(offset), 8, 15
    grown = [k for k in range(16) if distance**2 >= 8**2 * 2**k]
  else:
    # 16 + floor(16 log(d / 16) / log 8): the largest k with d^16 >= 16^16 8^k.
    first, distance, exact, last = 0, max(-offset, 0), 16, 31
    grown = [k for k in range(32) if distance**16 >= 16**16 * 8**k]
  if distance < exact:
    return first + distance
  return first + min(exact + max(grown), last)


@pytest.mark.parametrize('bidirectional', [True, False])
def test_buckets(bidirectional):
  got = relative_position_bucket(OFFSETS, bidirectional)
  want = [bucket_in_integers(int(o), bidirectional) for o in OFFSETS]
  np.testing.assert_array_equal(got, want)
  key = 'bidirectional' if bidirectional else 'causal'
  np.testing.assert_array_equal(got, GOLDEN[key])


def biases():
  module = RelativePositionBiases(32, 128, num_heads=3, dtype=jnp.float32)
  return module, module.init(jax.random.key(0), 2, 2)['params']


@pytest.mark.parametrize('bidirectional', [True, False])
def test_biases_read_the_table(bidirectional):
  module, params = biases()
  got = module.apply({'params': params}, 5, 40, bidirectional)
  assert got.shape == (1, 3, 5, 40)
  table = np.asarray(params['rel_embedding'])
  for query, key in np.ndindex(5, 40):
    bucket = bucket_in_integers(key - query, bidirectional)
    np.testing.assert_array_equal(got[0, :, query, key], table[:, bucket])


@pytest.mark.slow
@pytest.mark.parametrize('starts', [None, [3, 0]])
def test_decoding_returns_one_row_per_step(starts):
  module, params = biases()
  whole = module.apply({'params': params}, 6, 6, False)[0]
  call = {'decode': True, 'mutable': ['cache']}
  _, cache = module.apply({'params': params}, 6, 6, False, **call)
  rows = [0]
  if starts is not None:
    prefilled, cache = module.apply(
      {'params': params, **cache},
      4,
      4,
      False,
      prefill_lengths=jnp.array(starts),
      mutable=['cache'],
    )
    np.testing.assert_array_equal(prefilled[0], whole[:, :4, :4])
    rows = starts
  for step in range(3):
    row, cache = module.apply({'params': params, **cache}, 1, 1, False, **call)
    for i, start in enumerate(rows):
      written = start + step + 1
      np.testing.assert_array_equal(
        row[i, :, 0, :written], whole[:, written - 1, :written]
      )


def test_programs_hold_no_constants_of_the_size_of_scores():
  """A constant [buckets, 4096, 4096] would take two gigabytes."""
  module, params = biases()
  traced = jax.make_jaxpr(
    lambda params: module.apply({'params': params}, 256, 256)
  )(params)
  sizes = [np.size(constant) for constant in traced.consts]
  assert sizes
  assert max(sizes) <= 32 * 512
