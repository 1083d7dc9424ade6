"""The Hartley transform against NumPy's FFT, by every plan."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnet_t5x.backend import target_backend
from fnet_t5x.fourier.mixing import make_mixing_plan, mix
from fnet_t5x.planning.collectives import collectives

LENGTHS = [9, 5, 1, 0]
SEGMENTS = np.array([[1] * 4 + [2] * 5, [1] * 5 + [0] * 4])
POSITIONS = np.array([[*range(4), *range(5)], [*range(5), 0, 0, 0, 0]])
MASK = np.arange(9)[None, :] < np.array(LENGTHS)[:, None]
PLANS = {
  'fft': {'lengths': 'padded', 'method': 'fft'},
  'matrices': {'lengths': 'padded', 'method': 'matmul'},
  'bluestein': {'length_method': 'fft'},
  'folded': {'length_method': 'matmul'},
  'matrices per row': {'method': 'matmul'},
}
FEATURES = [1, 2, 6, 7]
make_plan = functools.partial(make_mixing_plan, transform='hartley')


def hartley(x):
  """Re - Im of the transform over both axes, orthonormal."""
  spectrum = np.fft.fft2(x, norm='ortho')
  return spectrum.real - spectrum.imag


def expected(x, lengths):
  y = np.zeros(x.shape)
  for row, length in enumerate(lengths):
    if length:
      y[row, :length] = hartley(np.float64(x[row, :length]))
  return y


def normal(*shape, seed=0, dtype='float32'):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def assert_close(actual, wanted, tolerance=1e-5):
  error = np.abs(np.asarray(actual, np.float64) - wanted).max()
  assert error < tolerance * np.abs(wanted).max()


@pytest.mark.parametrize('name', PLANS)
@pytest.mark.parametrize('embed', FEATURES)
def test_equals_numpy(name, embed):
  x = normal(4, 9, embed)
  y = mix(x, make_plan(jnp.asarray(MASK), **PLANS[name]))
  whole = PLANS[name].get('lengths') == 'padded'
  assert_close(y, expected(x, [9] * 4 if whole else LENGTHS))


@pytest.mark.parametrize('backend', ['cpu', 'tpu'])
@pytest.mark.parametrize('embed', FEATURES)
def test_packed_rows_equal_numpy(backend, embed):
  x = normal(2, 9, embed)
  with target_backend(backend):
    plan = make_plan(SEGMENTS, POSITIONS, method='matmul', embed=embed)
    y = np.asarray(mix(x, plan))
  parts = [(0, 0, 4), (0, 4, 9), (1, 0, 5)]
  for row, start, stop in parts:
    assert_close(y[row, start:stop], hartley(np.float64(x[row, start:stop])))
  assert not y[1, 5:].any()


def test_full_rows_are_transformed_by_the_fft():
  x = normal(2, 9, 6)
  plan = make_plan(jnp.ones((2, 9)), length_method='matmul')
  assert plan.fft.transform == plan.ragged.transform == 'hartley'
  assert_close(mix(x, plan), expected(x, [9, 9]))


@pytest.mark.parametrize('name', PLANS)
def test_is_its_own_inverse_and_transpose(name):
  plan = make_plan(jnp.asarray(MASK), **PLANS[name])
  x = jnp.where(MASK[:, :, None], normal(4, 9, 6), 0)
  y, pullback = jax.vjp(lambda x: mix(x, plan), x)
  # Hence the transform keeps the mean square, where Fourier mixing halves it.
  assert_close(mix(y, plan), np.float64(x))
  assert_close(pullback(x)[0], np.float64(y))


@pytest.mark.parametrize('name', PLANS)
def test_bfloat16(name):
  x = normal(4, 9, 6, dtype='bfloat16')
  y = mix(x, make_plan(jnp.asarray(MASK), dtype=x.dtype, **PLANS[name]))
  assert y.dtype == x.dtype
  whole = PLANS[name].get('lengths') == 'padded'
  assert_close(y, expected(x, [9] * 4 if whole else LENGTHS), 2e-2)


def test_unknown_transform():
  for lengths in ('exact', 'padded'):
    with pytest.raises(ValueError, match="transform='wavelet'"):
      make_mixing_plan(MASK, transform='wavelet', lengths=lengths)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:.*with mesh.*:DeprecationWarning')
@pytest.mark.parametrize('sharded', ['length_axis', 'embed_axis'])
@pytest.mark.parametrize('name', PLANS)
def test_sharded_rows(name, sharded):
  mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ('data', 'model'))
  lengths = [12, 5, 1, 8]
  mask = jnp.asarray(np.arange(12)[None, :] < np.array(lengths)[:, None])
  x = normal(4, 12, 8)
  place = ['data', None, None]
  place[{'length_axis': 1, 'embed_axis': 2}[sharded]] = 'model'
  place = NamedSharding(mesh, PartitionSpec(*place))

  def function(x, mask):
    return mix(x, make_plan(mask, **PLANS[name]), **{sharded: 'model'})

  with mesh:
    step = (
      jax.jit(
        function,
        in_shardings=(place, NamedSharding(mesh, PartitionSpec('data'))),
        out_shardings=place,
      )
      .lower(x, mask)
      .compile()
    )
  whole = PLANS[name].get('lengths') == 'padded'
  assert_close(step(x, mask), expected(x, [12] * 4 if whole else lengths))
  assert {each['kind'] for each in collectives(step.as_text())} == {
    'all-to-all'
  }
