"""Causal Fourier mixing against float64 NumPy: values, gradients, meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnet_t5x.backend import target_backend
from fnet_t5x.fourier import causal, reference
from fnet_t5x.networks.segments import positions_of_segments
from fnet_t5x.planning.collectives import collectives

# Rows of 7 tokens: full, padded, empty, packed twice.
SEGMENTS = np.array(
  [[1] * 7, [1] * 4 + [0] * 3, [0] * 7, [1, 1, 2, 2, 2, 0, 0], [3] * 6 + [5]]
)
TOLERANCE = {'float32': 1e-5, 'bfloat16': 2e-2}


def normal(*shape, seed=0, dtype='float32'):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def assert_close(actual, wanted, tolerance=1e-5):
  actual = np.asarray(actual, np.float64)
  assert actual.shape == wanted.shape
  assert np.abs(actual - wanted).max() < tolerance * np.abs(wanted).max()


def make_plan(x, max_length, method='auto', segment_ids=None):
  positions = None
  if segment_ids is not None:
    segment_ids = jnp.asarray(segment_ids)
    positions = positions_of_segments(segment_ids)
  return causal.make_causal_plan(
    x.shape[1],
    segment_ids,
    positions,
    max_length=max_length,
    method=method,
    embed=x.shape[2],
    dtype=x.dtype,
  )


def transposed(cotangent, max_length, segment_ids=None):
  """Of the linear map, by one basis vector at a time."""
  _, tokens, embed = cotangent.shape
  result = np.zeros(cotangent.shape)
  for token, feature in np.ndindex(tokens, embed):
    basis = np.zeros(cotangent.shape)
    basis[:, token, feature] = 1
    y = reference.mix_causal(basis, max_length, segment_ids)
    result[:, token, feature] = np.sum(y * cotangent, axis=(1, 2))
  return result


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('embed', [6, 5, 1])
@pytest.mark.parametrize('mode', ['fft', 'matmul', 'all features', 'packed'])
def test_values_and_gradients_equal_numpy(mode, embed, dtype):
  x = normal(len(SEGMENTS), 7, embed, dtype=dtype)
  cotangent = normal(*x.shape, seed=1, dtype=dtype)
  segments = SEGMENTS if mode == 'packed' else None
  method = mode if mode == 'fft' else 'matmul'
  backend = 'tpu' if mode == 'all features' else 'cpu'

  @jax.jit
  def both(x, cotangent):
    with target_backend(backend):
      plan = make_plan(x, 9, method, segments)
    y, pullback = jax.vjp(lambda x: causal.causal_mix(x, plan), x)
    return y, *pullback(cotangent)

  y, gradient = both(x, cotangent)
  assert y.dtype == gradient.dtype == dtype
  x, cotangent = np.float64(x), np.float64(cotangent)
  assert_close(y, reference.mix_causal(x, 9, segments), TOLERANCE[dtype])
  wanted = transposed(cotangent, 9, segments)
  assert_close(gradient, wanted, TOLERANCE[dtype])


@pytest.mark.parametrize('method', ['fft', 'matmul'])
def test_nothing_depends_on_what_follows(method):
  x = normal(1, 8, 4)
  plan = make_plan(x, 16, method)
  sees = jax.jit(jax.jacobian(lambda x: causal.causal_mix(x, plan)[0]))(x)
  sees = np.abs(sees).max((1, 2, 4))
  visible = np.tril(np.ones((8, 8), bool))
  assert sees[~visible].max(initial=0) < 1e-6
  assert (sees[visible] > 0.1).all()
  short = causal.causal_mix(x[:, :5], make_plan(x[:, :5], 16, method))
  whole = causal.causal_mix(x, plan)
  np.testing.assert_allclose(short, whole[:, :5], rtol=1e-5, atol=1e-6)


def test_long_rows_keep_their_precision():
  """Phases of p q up to the square of 8191 lose digits in float32."""
  x, last = normal(1, 8192, 2), jnp.array(8191)

  @jax.jit
  def both(x):
    step = causal.causal_step(x, last, max_length=8192)
    return causal.causal_mix(x, make_plan(x, 8192, 'fft'))[:, -1:], step

  products = 8191 * np.arange(8192) % 8192
  weights = np.exp(-2j * np.pi * products / 8192)
  total = weights @ np.fft.fft(np.float64(x))[0]
  wanted = total.real / np.sqrt(8192 * 2)
  for y in both(x):
    assert_close(y[0, 0], wanted)


@pytest.mark.parametrize('embed', [6, 5])
@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('features', ['fft', 'matmul'])
def test_a_step_is_a_row_of_the_whole(features, dtype, embed):
  x = normal(3, 7, embed, dtype=dtype)
  wanted = reference.mix_causal(np.float64(x), 9)
  for index in (np.array(4), np.array([0, 6, 3])):
    y = causal.causal_step(x, jnp.asarray(index), max_length=9, method=features)
    assert y.shape == (3, 1, embed) and y.dtype == dtype
    rows = wanted[np.arange(3), index][:, None]
    assert_close(y, rows, TOLERANCE[dtype])


def test_the_scale_keeps_white_noise():
  """At every position, up to the half that the real part takes."""
  x = normal(200, 32, 64)
  y = jax.jit(lambda x: causal.causal_mix(x, make_plan(x, 64)))(x)
  squares = np.mean(np.square(y), axis=(0, 2))
  np.testing.assert_allclose(squares, 0.5, rtol=0.06)


def test_vmap_and_jvp():
  x = normal(2, 5, 4)
  for method in ('fft', 'matmul'):
    plan = make_plan(x, 8, method)
    mix = functools.partial(causal.causal_mix, plan=plan)
    y = reference.mix_causal(np.float64(x), 8)
    assert_close(
      jax.jit(jax.vmap(mix))(jnp.stack([x, 2 * x])), np.stack([y, 2 * y])
    )
    _, tangent = jax.jvp(jax.jit(mix), (x,), (2 * x,))
    assert_close(tangent, 2 * y)


def test_methods():
  choose = causal.choose_method
  for backend, minimum in causal.FFT_MIN_LENGTH.items():
    assert choose('auto', minimum, backend=backend) == 'fft'
    assert choose('auto', minimum - 1, backend=backend) == 'matmul'
    assert choose('auto', minimum, packed=True, backend=backend) == 'matmul'
  assert choose('fft', 8, packed=True) == 'matmul'
  assert choose('fft', 8) == 'fft'
  assert choose('auto', 9, backend='rocm') == choose('auto', 9, backend='gpu')
  with pytest.raises(ValueError, match="fourier_method='dct'"):
    choose('dct', 8)


def test_limits():
  for length, max_length, named in (
    (9, 8, 'limited to 8'),
    (9, 50000, '46340'),
  ):
    with pytest.raises(ValueError, match=named) as error:
      causal.make_causal_plan(length, max_length=max_length, embed=2)
    assert '\n' not in str(error.value)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:.*with mesh.*:DeprecationWarning')
@pytest.mark.parametrize('method', ['fft', 'matmul'])
@pytest.mark.parametrize('embed_axis', [None, 'model'])
def test_meshes_keep_rows_local(method, embed_axis):
  mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ('data', 'model'))
  x, cotangent = normal(8, 6, 8), normal(8, 6, 8, seed=1)
  pieces = NamedSharding(mesh, PartitionSpec('data', None, embed_axis))

  def both(x, cotangent):
    plan = make_plan(x, 8, method)
    y, pullback = jax.vjp(lambda x: causal.causal_mix(x, plan, embed_axis), x)
    return y, *pullback(cotangent)

  with mesh:
    step = (
      jax.jit(both, in_shardings=(pieces,) * 2, out_shardings=(pieces,) * 2)
      .lower(x, cotangent)
      .compile()
    )
    y, gradient = step(x, cotangent)
  assert_close(y, reference.mix_causal(np.float64(x), 8))
  assert_close(gradient, transposed(np.float64(cotangent), 8))
  found = {each['kind'] for each in collectives(step.as_text())}
  assert found == ({'all-to-all'} if embed_axis else set())
