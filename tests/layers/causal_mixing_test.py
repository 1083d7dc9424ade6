"""Causal mixings against their formulas, and their steps against the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.fourier import reference
from fnet_t5x.fourier.causal import make_causal_plan
from fnet_t5x.layers.causal_fourier_mixing import CausalFourierMixing
from fnet_t5x.layers.causal_toeplitz_mixing import CausalToeplitzMixing
from fnet_t5x.networks.segments import positions_of_segments

SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]])
HEADS, EMBED, MAX_LENGTH = 2, 4, 8
TOLERANCE = {'float32': 1e-5, 'bfloat16': 3e-2}


def normal(*shape, seed=0, dtype='float32'):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


class Case:
  """A module, its parameters, and its formula in float64."""

  def __init__(self, name, method, dtype='float32', filter='free'):
    self.fourier, self.method = name == 'fourier', method
    if self.fourier:
      self.module = CausalFourierMixing(MAX_LENGTH, method)
    else:
      self.module = CausalToeplitzMixing(
        HEADS, MAX_LENGTH, filter, method, dtype
      )
    x = normal(2, MAX_LENGTH, EMBED)
    variables = self.module.init(jax.random.key(0), x, self.inputs(x))
    self.params = {'params': variables.get('params', {})}

  def inputs(self, x, segment_ids=None):
    if not self.fourier:
      return segment_ids
    positions = None
    if segment_ids is not None:
      positions = positions_of_segments(segment_ids)
    return make_causal_plan(
      x.shape[1],
      segment_ids,
      positions,
      max_length=MAX_LENGTH,
      method=self.method,
      embed=EMBED,
      dtype=x.dtype,
    )

  def apply(self, x, segment_ids=None, cache=None, **options):
    inputs = self.inputs(x, segment_ids)
    if not options:
      return self.module.apply(self.params, x, inputs)
    return self.module.apply(
      {**self.params, **(cache or {})}, x, inputs, mutable=['cache'], **options
    )

  def expected(self, x, segments):
    x = np.asarray(x, np.float64)
    if self.fourier:
      return reference.mix_causal(x, MAX_LENGTH, segments)
    params = jax.tree.map(np.float64, self.params['params'])
    values = x @ params['embed_mixing']['kernel']
    want, width = np.zeros(x.shape), EMBED // HEADS
    for row, n, m in np.ndindex(len(x), x.shape[1], x.shape[1]):
      if m <= n and 0 < segments[row, n] == segments[row, m]:
        weights = np.repeat(params['filters']['lags'][:, n - m], width)
        want[row, n] += weights * values[row, m]
    return want


def assert_close(got, want, tolerance):
  got = np.asarray(got, np.float64)
  assert got.shape == want.shape
  assert np.abs(got - want).max() < tolerance * np.abs(want).max()


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('mode', ['fft', 'matmul', 'packed'])
@pytest.mark.parametrize('name', ['fourier', 'toeplitz'])
def test_equals_the_formula(name, mode, dtype):
  packed = mode == 'packed'
  case = Case(name, 'auto' if packed else mode, dtype)
  x = normal(2, 6, EMBED, dtype=dtype)
  ids = jnp.asarray(SEGMENTS) if packed else None
  got = jax.jit(case.apply)(x, ids)
  assert got.dtype == dtype
  want = case.expected(x, SEGMENTS if packed else np.ones_like(SEGMENTS))
  assert_close(got, want, TOLERANCE[dtype])


@pytest.mark.parametrize(
  ('name', 'filter'),
  [('fourier', None), ('toeplitz', 'free'), ('toeplitz', 'network')],
)
@pytest.mark.parametrize('dtype', TOLERANCE)
def test_prefill_and_steps_are_the_whole(name, filter, dtype):
  """For prompts of 2, 0 and 5 tokens in one batch, and steps from nothing."""
  case = Case(name, 'fft', dtype, filter)
  x = normal(3, 6, EMBED, dtype=dtype)
  whole = np.asarray(case.apply(x), np.float64)
  _, cache = case.apply(x, decode=True)
  step = jax.jit(lambda x, cache: case.apply(x, cache=cache, decode=True))
  lengths, one_by_one = np.array([2, 0, 5]), cache
  for n in range(2):
    got, one_by_one = step(x[:, n : n + 1], one_by_one)
    assert_close(got[:, 0], whole[:, n], TOLERANCE[dtype])
  filled, cache = case.apply(
    x[:, :5], cache=cache, prefill_lengths=jnp.asarray(lengths)
  )
  assert_close(filled, whole[:, :5], TOLERANCE[dtype])
  (index,) = [
    leaf
    for path, leaf in jax.tree.leaves_with_path(cache)
    if path[-1].key == 'cache_index'
  ]
  np.testing.assert_array_equal(index, lengths)
  for offset in range(1 if dtype == 'bfloat16' else 2):
    at = np.minimum(lengths + offset, 5)  # The cache ends there.
    got, cache = step(x[np.arange(3), at][:, None], cache)
    rows = np.flatnonzero(lengths + offset < 6)
    assert_close(got[rows, 0], whole[rows, at[rows]], TOLERANCE[dtype])


@pytest.mark.parametrize('name', ['fourier', 'toeplitz'])
def test_what_does_not_fit_is_refused(name):
  case = Case(name, 'auto')
  x = normal(1, 6, EMBED)
  lengths = jnp.ones(1, jnp.int32)
  with pytest.raises(ValueError, match=r'9 tokens.*limited to 8'):
    case.apply(normal(1, 9, EMBED))
  with pytest.raises(ValueError, match='there is no cache'):
    case.apply(x, prefill_lengths=lengths)
  _, cache = case.apply(x, decode=True)
  with pytest.raises(ValueError, match='do not fit into a cache of 6'):
    case.apply(normal(1, 7, EMBED), cache=cache, prefill_lengths=lengths)
  with pytest.raises(ValueError, match='one token per row'):
    case.apply(x[:, :2], cache=cache, decode=True)


def test_heads_divide_the_width():
  with pytest.raises(ValueError, match='emb_dim=5 is not a multiple of'):
    CausalToeplitzMixing(2, 8).init(jax.random.key(0), normal(1, 4, 5))
