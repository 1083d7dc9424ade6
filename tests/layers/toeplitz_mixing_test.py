import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.layers import toeplitz_mixing
from fnet_t5x.layers.toeplitz_mixing import (
  FreeFilter,
  NetworkFilter,
  ToeplitzMixing,
  TokenWeights,
)

SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]])
ONE_PER_ROW = np.minimum(SEGMENTS, 1)
HEADS, EMBED, MAX_LENGTH = 2, 4, 8


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def expected(x, filters, segments, a=None, b=None):
  """The module's formula, with weights a and b per token and head."""
  tokens = x.shape[1]
  want = np.zeros(x.shape)
  for row, n, m in np.ndindex(len(x), tokens, tokens):
    if segments[row, n] == 0 or segments[row, n] != segments[row, m]:
      continue
    for head in range(HEADS):
      weight = filters[head, MAX_LENGTH - 1 + n - m]
      if a is not None:
        weight = weight * (a if m <= n else b)[row, m, head]
      part = slice(head * EMBED // HEADS, (head + 1) * EMBED // HEADS)
      want[row, n, part] += weight * x[row, m, part]
  return want


def layer(**choices):
  fields = {'num_heads': HEADS, 'max_length': MAX_LENGTH, **choices}
  return ToeplitzMixing(**fields)


@pytest.mark.parametrize(
  ('method', 'packed'), [('fft', False), ('matmul', False), ('auto', True)]
)
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('project', [False, True])
def test_equals_the_formula(method, packed, weighted, project):
  segments = SEGMENTS if packed else ONE_PER_ROW
  x, weights = normal(2, 6, EMBED), None
  if weighted:
    weights = tuple(normal(2, 6, HEADS, seed=seed) for seed in (1, 2))
  got, variables = layer(method=method, project=project).init_with_output(
    jax.random.key(0), x, jnp.asarray(segments), packed, weights
  )
  params = jax.tree.map(np.float64, variables['params'])
  values = np.float64(x)
  if project:
    values = values @ params['embed_mixing']['kernel']
  else:
    assert set(params) == {'filters'}
  want = expected(values, params['filters']['lags'], segments, *weights or ())
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_network_filters_are_those_of_free_ones():
  x, ids = normal(2, 6, EMBED), jnp.asarray(ONE_PER_ROW)
  module = layer(filter='network', project=False)
  got, variables = module.init_with_output(jax.random.key(0), x, ids)
  filters = NetworkFilter(HEADS, MAX_LENGTH).apply(
    {'params': variables['params']['filters']}, MAX_LENGTH
  )
  want = expected(np.float64(x), np.asarray(filters), ONE_PER_ROW)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_filters_do_not_depend_on_the_length():
  for module in (FreeFilter(3, 32), NetworkFilter(3, 32)):
    long, variables = module.init_with_output(jax.random.key(0), 32)
    for length in (1, 7):
      short = module.apply(variables, length)
      assert short.shape == (3, 2 * length - 1)
      middle = long[:, 32 - length : 31 + length]
      np.testing.assert_allclose(short, middle, rtol=1e-5, atol=1e-6)


def test_initial_filters_have_a_variance_of_one_over_length():
  for module in (FreeFilter(16, 128), NetworkFilter(64, 128)):
    filters, _ = module.init_with_output(jax.random.key(0), 128)
    assert 0.5 < np.mean(np.square(filters)) * 128 < 2


def test_network_filters_have_no_limit_and_tell_directions_apart():
  module = NetworkFilter(2, 8)
  _, variables = module.init_with_output(jax.random.key(0), 8)
  filters = module.apply(variables, 3000)
  assert filters.shape == (2, 5999)
  assert np.abs(filters - filters[:, ::-1]).max() > 0.1
  # Inputs of the network stay within a few units.
  assert np.abs(toeplitz_mixing.lag_features(3000)).max() < 3


def test_token_weights_are_positive_and_about_one():
  weights, variables = TokenWeights(3).init_with_output(
    jax.random.key(0), normal(2, 50, 8)
  )
  assert set(variables['params']) == {'seen_later', 'seen_earlier'}
  a, b = map(np.asarray, weights)
  assert a.shape == b.shape == (2, 50, 3)
  assert np.abs(a - b).max() > 0.1
  for each in (a, b):
    assert each.min() > 0 and each.max() < 2
    assert abs(each.mean() - 1) < 0.2


def test_limits():
  ids = jnp.ones((1, 9), jnp.int32)
  with pytest.raises(ValueError, match=r'9 tokens.*max_encoder_length=8') as e:
    layer().init(jax.random.key(0), normal(1, 9, EMBED), ids)
  assert '\n' not in str(e.value)
  with pytest.raises(ValueError, match='emb_dim=5 is not a multiple of'):
    layer().init(jax.random.key(0), normal(1, 9, 5), ids)
