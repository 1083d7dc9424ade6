import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from fnet_t5x.layers import low_pass


def _scipy(x, rate):
  """Returns the low frequencies of one example, in float64."""
  n = len(x)
  kept = max(1, n // rate)
  spectrum = scipy.fft.dct(x, axis=0, norm='ortho')[:kept]
  return scipy.fft.idct(spectrum, axis=0, norm='ortho') * np.sqrt(kept / n)


def _shorten(x, segment_ids, positions, rate):
  places = low_pass.make_places(segment_ids, positions, rate)
  return low_pass.shorten(x, places), low_pass.shortened_segment_ids(places)


@pytest.mark.parametrize(
  ('n', 'rate'), [(1, 2), (5, 2), (7, 3), (64, 4), (513, 8), (2048, 8)]
)
def test_rows_are_scipys_low_frequencies(n, rate):
  x = np.random.default_rng(n).normal(size=(n, 3))
  want = _scipy(x, rate)
  got, ids = _shorten(
    jnp.asarray(x, jnp.float32)[None], jnp.ones((1, n), jnp.int32), None, rate
  )
  np.testing.assert_allclose(got[0], want, atol=2e-6 * abs(want).max())
  np.testing.assert_array_equal(ids[0], np.ones(len(want)))


def test_a_rate_of_one_is_the_identity():
  ids = jnp.ones((1, 9), jnp.int32)
  places = low_pass.make_places(ids, None, 1)
  matrices = low_pass.low_pass_matrices(places)
  np.testing.assert_allclose(matrices[0], np.eye(9), atol=1e-6)


def test_constants_are_kept():
  ids = jnp.asarray([[1] * 11 + [0] * 5])
  y, short = _shorten(jnp.ones((1, 16, 2)), ids, None, 4)
  np.testing.assert_allclose(y[0, :2], 1, rtol=1e-6)
  np.testing.assert_array_equal(y[0, 2:], 0)
  np.testing.assert_array_equal(short[0], [1, 1, 0, 0])


@pytest.mark.parametrize('rate', [2, 3, 8])
def test_packed_examples_are_shortened_alone(rate):
  lengths = (9, 2, 1, 12)
  rng = np.random.default_rng(rate)
  rows = [rng.normal(size=(n, 4)) for n in lengths]
  x = np.concatenate([*rows, rng.normal(size=(4, 4))])
  ids = np.repeat([1, 2, 3, 4, 0], [*lengths, 4])
  positions = np.concatenate([*map(np.arange, lengths), np.zeros(4, int)])
  got, short = _shorten(
    jnp.asarray(x, jnp.float32)[None],
    jnp.asarray(ids)[None],
    jnp.asarray(positions)[None],
    rate,
  )
  want = [_scipy(row, rate) for row in rows]
  counts = [max(1, n // rate) for n in lengths]
  total = sum(counts)
  np.testing.assert_allclose(got[0, :total], np.concatenate(want), atol=2e-6)
  np.testing.assert_array_equal(got[0, total:], 0)
  np.testing.assert_array_equal(
    short[0], [*np.repeat([1, 2, 3, 4], counts), *[0] * (14 - total)]
  )


def test_packed_rows_of_two_tokens_and_more_always_fit():
  for n in range(2, 40):
    for rate in range(2, 9):
      assert max(1, n // rate) <= n / 2


def test_gradients_are_finite_and_of_the_own_example():
  ids = jnp.asarray([[1] * 6 + [2] * 6])
  positions = jnp.asarray([[*range(6), *range(6)]])

  def first(x):
    return jnp.sum(_shorten(x, ids, positions, 3)[0][0, :2] ** 2)

  x = jax.random.normal(jax.random.key(0), (1, 12, 2))
  gradient = jax.grad(first)(x)
  assert bool(jnp.all(jnp.isfinite(gradient)))
  assert float(jnp.abs(gradient[0, :6]).min()) > 0
  np.testing.assert_array_equal(gradient[0, 6:], 0)


def test_segment_ids_of_one_example_per_row_take_no_pairs_of_tokens():
  """Each step of generation computes them."""

  def ids(segment_ids):
    places = low_pass.make_places(segment_ids, None, 4)
    return low_pass.shortened_segment_ids(places)

  traced = jax.make_jaxpr(ids)(jnp.ones((3, 64), jnp.int32))
  sizes = [v.aval.size for e in traced.eqns for v in e.outvars]
  assert max(sizes) <= 3 * 64
