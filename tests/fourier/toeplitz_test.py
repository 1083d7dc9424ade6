"""Toeplitz products against float64 NumPy: values, gradients, meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnet_t5x.fourier import toeplitz
from fnet_t5x.planning.collectives import collectives

HEADS, KV = 2, 3
# Rows of 7 tokens: full, padded, empty, packed twice.
SEGMENTS = np.array(
  [[1] * 7, [1] * 4 + [0] * 3, [0] * 7, [1, 1, 2, 2, 2, 0, 0], [3] * 6 + [5]]
)
ONE_PER_ROW = np.minimum(SEGMENTS, 1)
TOLERANCE = {'float32': 1e-5, 'bfloat16': 2e-2}


def matrices(filters, segment_ids):
  """[batch, heads, n, m] by the definition."""
  batch, tokens = segment_ids.shape
  result = np.zeros((batch, len(filters), tokens, tokens))
  for b, n, m in np.ndindex(batch, tokens, tokens):
    if segment_ids[b, n] and segment_ids[b, n] == segment_ids[b, m]:
      result[b, :, n, m] = filters[:, tokens - 1 + n - m]
  return result


def expected(terms, segment_ids):
  return sum(
    np.einsum('bhnm,bmhd->bnhd', matrices(np.float64(t), segment_ids), x)
    for x, t in ((np.float64(x), t) for x, t in terms)
  )


def expected_gradients(x, filters, segment_ids, cotangent):
  """Of x and of the filters, by the definition."""
  x, filters, cotangent = map(np.float64, (x, filters, cotangent))
  of_x = np.einsum('bhnm,bnhd->bmhd', matrices(filters, segment_ids), cotangent)
  of_filters = np.zeros(filters.shape)
  tokens = x.shape[1]
  for lag in range(1 - tokens, tokens):
    only = np.zeros(filters.shape)
    only[:, tokens - 1 + lag] = 1
    moved = np.einsum('bhnm,bmhd->bnhd', matrices(only, segment_ids), x)
    of_filters[:, tokens - 1 + lag] = np.einsum(
      'bnhd,bnhd->h', moved, cotangent
    )
  return of_x, of_filters


def normal(*shape, seed=0, dtype='float32'):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def assert_close(actual, wanted, tolerance=1e-5):
  actual = np.asarray(actual, np.float64)
  assert actual.shape == wanted.shape
  assert np.abs(actual - wanted).max() < tolerance * np.abs(wanted).max()


def term(tokens, batch, seed=0, dtype='float32'):
  x = normal(batch, tokens, HEADS, KV, seed=seed, dtype=dtype)
  return x, normal(HEADS, 2 * tokens - 1, seed=seed + 1)


@pytest.mark.parametrize(
  ('method', 'packed'), [('fft', False), ('matmul', False), ('matmul', True)]
)
@pytest.mark.parametrize('dtype', TOLERANCE)
def test_values_and_gradients_equal_numpy(method, packed, dtype):
  segment_ids = SEGMENTS if packed else ONE_PER_ROW
  x, filters = term(7, len(SEGMENTS), dtype=dtype)
  cotangent = normal(*x.shape, seed=2, dtype=dtype)

  @jax.jit
  def both(x, filters, cotangent):
    y, pullback = jax.vjp(
      lambda x, filters: toeplitz.toeplitz_mix(
        [(x, filters)], jnp.asarray(segment_ids), packed=packed, method=method
      ),
      x,
      filters,
    )
    return y, *pullback(cotangent)

  y, of_x, of_filters = both(x, filters, cotangent)
  assert y.dtype == of_x.dtype == dtype
  assert of_filters.dtype == jnp.float32
  assert_close(y, expected([(x, filters)], segment_ids), TOLERANCE[dtype])
  wanted = expected_gradients(x, filters, segment_ids, cotangent)
  assert_close(of_x, wanted[0], TOLERANCE[dtype])
  assert_close(of_filters, wanted[1], TOLERANCE[dtype])
  padding = np.asarray(segment_ids) == 0
  assert not np.asarray(y)[padding].any()


@pytest.mark.parametrize('tokens', [1, 2, 5, 8, 13])
@pytest.mark.parametrize('method', ['fft', 'matmul'])
def test_lengths_and_several_terms(tokens, method):
  terms = [term(tokens, 2), term(tokens, 2, seed=5)]
  ids = np.ones((2, tokens), np.int32)
  ids[1, (tokens + 1) // 2 :] = 0
  y = toeplitz.toeplitz_mix(terms, jnp.asarray(ids), method=method)
  assert_close(y, expected(terms, ids))


def test_values_on_padding_have_no_effect():
  x, filters = term(7, len(SEGMENTS))
  real = (ONE_PER_ROW > 0)[:, :, None, None]
  for method in ('fft', 'matmul'):
    results = [
      toeplitz.toeplitz_mix(
        [(jnp.where(real, x, value), filters)],
        jnp.asarray(ONE_PER_ROW),
        method=method,
      )
      for value in (0.0, 1e6)
    ]
    np.testing.assert_array_equal(*results)


def test_vmap_and_jvp():
  x, filters = term(5, 2)
  ids = jnp.ones((2, 5), jnp.int32)
  mix = functools.partial(toeplitz.toeplitz_mix, segment_ids=ids, method='fft')
  many = jax.vmap(lambda x: mix([(x, filters)]))(jnp.stack([x, 2 * x]))
  y = expected([(x, filters)], ids)
  assert_close(many, np.stack([y, 2 * y]))
  _, tangent = jax.jvp(lambda t: mix([(x, t)]), (filters,), (2 * filters,))
  assert_close(tangent, 2 * y)


def test_methods():
  choose = toeplitz.choose_method
  for backend, minimum in toeplitz.FFT_MIN_LENGTH.items():
    assert choose('auto', minimum, backend=backend) == 'fft'
    assert choose('auto', minimum - 1, backend=backend) == 'matmul'
    assert choose('auto', minimum, packed=True, backend=backend) == 'matmul'
  assert choose('fft', 8, packed=True) == 'matmul'
  assert choose('fft', 8) == 'fft'
  assert choose('auto', 9, backend='rocm') == choose('auto', 9, backend='gpu')
  with pytest.raises(ValueError, match="toeplitz_method='dct'"):
    choose('dct', 8)


def test_filters_of_another_length():
  x, filters = term(5, 2)
  with pytest.raises(ValueError, match='8 lags; rows of 5 tokens need 9'):
    toeplitz.toeplitz_mix([(x, filters[:, 1:])], jnp.ones((2, 5), jnp.int32))


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:.*with mesh.*:DeprecationWarning')
@pytest.mark.parametrize('shape', [(8, 1), (4, 2)])
@pytest.mark.parametrize('method', ['fft', 'matmul'])
def test_meshes_keep_rows_and_heads_local(shape, method):
  mesh = Mesh(np.array(jax.devices()).reshape(shape), ('data', 'model'))
  x, filters = term(6, 8)
  cotangent = normal(*x.shape, seed=2)
  ids = np.arange(6)[None, :] < np.arange(8)[:, None] % 6 + 1
  pieces = NamedSharding(mesh, PartitionSpec('data', None, 'model', None))
  rows = NamedSharding(mesh, PartitionSpec('data'))
  heads = NamedSharding(mesh, PartitionSpec('model'))

  def both(x, filters, ids, cotangent):
    y, pullback = jax.vjp(
      lambda x, filters: toeplitz.toeplitz_mix(
        [(x, filters)], ids, method=method, heads_axis='model'
      ),
      x,
      filters,
    )
    return y, *pullback(cotangent)

  with mesh:
    step = (
      jax.jit(
        both,
        in_shardings=(pieces, heads, rows, pieces),
        out_shardings=(pieces, pieces, heads),
      )
      .lower(x, filters, jnp.asarray(ids, jnp.int32), cotangent)
      .compile()
    )
    y, of_x, of_filters = step(x, filters, ids.astype(np.int32), cotangent)
  assert_close(y, expected([(x, filters)], ids))
  wanted = expected_gradients(x, filters, ids, cotangent)
  assert_close(of_x, wanted[0])
  assert_close(of_filters, wanted[1])
  # Only the gradient of the filters is a sum over rows.
  assert {each['kind'] for each in collectives(step.as_text())} == {
    'all-reduce'
  }
