"""Mixing against float64 NumPy: values, gradients, scales, methods, dtypes."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.backend import target_backend
from fnet_t5x.fourier import reference
from fnet_t5x.fourier.mixing import fourier_mix, make_mixing_plan, mix

# Odd, even, prime, a power of two, and one, for both axes.
SHAPES = [(8, 6), (7, 13), (16, 5), (15, 16), (13, 2), (12, 9), (1, 4), (6, 1)]
TOLERANCE = {'float32': 1e-5, 'bfloat16': 2e-2}


def relative_error(actual, expected):
  actual = np.asarray(actual, np.float64)
  assert actual.shape == expected.shape
  largest = np.abs(expected).max()
  assert largest > 0
  return np.abs(actual - expected).max() / largest


@pytest.fixture(params=['fft', 'matmul', 'matmul, all features'])
def method(request):
  """Every method, and the matrices of accelerators."""
  if request.param in ('fft', 'matmul'):
    yield request.param
    return
  with target_backend('tpu'):
    yield 'matmul'


def normal(*shape, dtype='float32', seed=0):
  x = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(x, dtype)


def float64(x):
  return np.asarray(x, np.float64)


def value_and_pullback(function, x, cotangent):
  """Returns function(x), and the cotangent of x."""

  @jax.jit
  def both(x, cotangent):
    y, pullback = jax.vjp(function, x)
    return y, pullback(cotangent)[0]

  return both(x, cotangent)


@pytest.mark.parametrize('scale', ['ortho', 'none'])
@pytest.mark.parametrize('shape', SHAPES)
def test_padded_equals_numpy(shape, scale, method):
  x, ct = normal(2, *shape), normal(2, *shape, seed=1)
  y, grad = value_and_pullback(
    lambda x: fourier_mix(x, scale=scale, method=method), x, ct
  )
  assert relative_error(y, reference.mix_padded(float64(x), scale)) < 1e-5
  assert relative_error(grad, reference.mix_padded(float64(ct), scale)) < 1e-5


@pytest.mark.parametrize('scale', ['ortho', 'none'])
@pytest.mark.parametrize('shape', SHAPES)
def test_exact_equals_numpy(shape, scale, method):
  x, ct = normal(4, *shape), normal(4, *shape, seed=1)
  lengths = [shape[0], (shape[0] + 1) // 2, shape[0] - 1, 0]
  mask = np.arange(shape[0])[None, :] < np.array(lengths)[:, None]

  def function(x):
    return mix(x, make_mixing_plan(mask, method=method, scale=scale))

  y, grad = value_and_pullback(function, x, ct)
  for actual, source in ((y, x), (grad, ct)):
    expected = reference.mix_exact(float64(source), lengths, scale)
    assert relative_error(actual, expected) < 1e-5


def packed(length):
  """Three rows: two segments; one that fills the row; three with padding."""
  short, third = length // 3, length // 4
  segments = np.zeros((3, length), np.int32)
  positions = np.zeros((3, length), np.int32)
  layout = [[short, length - short], [length], [third, third, 1]]
  for row, sizes in enumerate(layout):
    start = 0
    for index, size in enumerate(sizes):
      segments[row, start : start + size] = index + 1
      positions[row, start : start + size] = np.arange(size)
      start += size
  return segments, positions


@pytest.mark.parametrize('scale', ['ortho', 'none'])
@pytest.mark.parametrize('shape', [(16, 6), (13, 13), (12, 5)])
def test_packed_equals_numpy(shape, scale, method):
  x, ct = normal(3, *shape), normal(3, *shape, seed=1)
  segments, positions = packed(shape[0])

  def function(x):
    plan = make_mixing_plan(segments, positions, method=method, scale=scale)
    return mix(x, plan)

  y, grad = value_and_pullback(function, x, ct)
  for actual, source in ((y, x), (grad, ct)):
    expected = reference.mix_packed(float64(source), segments, positions, scale)
    assert relative_error(actual, expected) < 1e-5


@pytest.mark.parametrize('mode', ['padded', 'bluestein', 'matrices'])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_long_rows_keep_their_precision(method, dtype, mode):
  # 509 is prime; phases of p * q up to 260,000 turns lose digits in float32.
  x = normal(2, 509, 48, dtype=dtype)
  lengths = [509, 331]
  mask = np.arange(509)[None, :] < np.array(lengths)[:, None]
  if mode == 'padded':
    y = jax.jit(lambda x: fourier_mix(x, method=method))(x)
    expected = reference.mix_padded(float64(x))
  else:
    plan = make_mixing_plan(
      mask,
      method=method,
      length_method={'bluestein': 'fft', 'matrices': 'matmul'}[mode],
      dtype=dtype,
    )
    y = jax.jit(lambda x, plan: mix(x, plan))(x, plan)
    expected = reference.mix_exact(float64(x), lengths)
  assert y.dtype == x.dtype
  assert relative_error(y, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize('length_method', ['fft', 'matmul'])
@pytest.mark.parametrize('padding', [1, 5, 14])
def test_padding_changes_nothing(padding, length_method):
  x = normal(2, 11, 6)
  alone = mix(x, make_mixing_plan(np.ones((2, 11), bool)))
  noise = normal(2, padding, 6, seed=2)
  mask = np.arange(11 + padding)[None, :] < np.full((2, 1), 11)
  plan = make_mixing_plan(mask, length_method=length_method)
  y = mix(jnp.concatenate([x, noise], axis=1), plan)
  assert relative_error(y[:, :11], float64(alone)) < 1e-5
  assert not np.any(y[:, 11:])


def test_padding_changes_padded_mode():
  # The reason for exact lengths: FNet's mixing does depend on padding.
  x = normal(2, 11, 6)
  longer = fourier_mix(jnp.pad(x, ((0, 0), (0, 5), (0, 0))))
  assert relative_error(longer[:, :11], float64(fourier_mix(x))) > 0.1


def test_packed_segments_do_not_see_one_another():
  a, b = normal(1, 7, 6), normal(1, 5, 6, seed=1)
  alone = [mix(x, make_mixing_plan(np.ones(x.shape[:2]))) for x in (a, b)]
  segments = np.array([[1] * 7 + [2] * 5 + [0] * 3])
  positions = np.array([[*range(7), *range(5), 0, 0, 0]])
  x = jnp.concatenate([a, b, normal(1, 3, 6, seed=2)], axis=1)
  y = mix(x, make_mixing_plan(segments, positions))
  assert relative_error(y[:, :7], float64(alone[0])) < 1e-5
  assert relative_error(y[:, 7:12], float64(alone[1])) < 1e-5
  assert not np.any(y[:, 12:])


@pytest.mark.parametrize('length_method', ['fft', 'matmul'])
def test_neighbours_change_nothing(length_method):
  # One short row switches the whole batch from the plain FFT to ragged.
  x = normal(2, 12, 6)
  full = np.ones((2, 12), bool)
  short = full.copy()
  short[1, 5:] = False
  a, b = (
    mix(x, make_mixing_plan(mask, length_method=length_method))
    for mask in (full, short)
  )
  assert relative_error(b[0], float64(a[0])) < 1e-5


def test_row_ends_at_its_last_real_token():
  # A token with id 0 inside a row counts as a real token.
  x = normal(1, 9, 4)
  mask = np.array([[1, 1, 0, 1, 1, 1, 0, 0, 0]])
  for length_method in ('fft', 'matmul'):
    y = mix(x, make_mixing_plan(mask, length_method=length_method))
    assert relative_error(y, reference.mix_exact(float64(x), [6])) < 1e-5


@pytest.mark.parametrize('lengths', ['exact', 'padded'])
def test_a_plan_for_matrices_holds_them_all(lengths):
  x, mask = normal(2, 8, 6), np.arange(8)[None, :] < [[8], [5]]
  options = {'method': 'matmul', 'lengths': lengths}
  for embed, made in ((6, False), (None, True)):
    plan = make_mixing_plan(mask, embed=embed, **options)
    program = str(jax.make_jaxpr(mix)(x, plan))
    assert 'dot_general' in program
    # Each layer would recompute arrays that the plan lacks.
    assert (' cos ' in program) == made


@pytest.mark.parametrize('mode', ['rows', 'whole', 'packed'])
def test_products_of_matrices_are_in_the_type_of_activations(mode):
  x = normal(3, 16, 32, dtype='bfloat16')
  segments, positions = packed(16)

  def function(x):
    if mode == 'whole':
      return fourier_mix(x, method='matmul')
    plan = make_mixing_plan(
      segments,
      positions if mode == 'packed' else None,
      method='matmul',
      embed=32,
      dtype=x.dtype,
    )
    return mix(x, plan)

  with target_backend('tpu'):
    jaxpr = jax.make_jaxpr(lambda x: jax.vjp(function, x)[1](x))(x)
  products = [
    variable.aval.dtype.name
    for equation in every_equation(jaxpr.jaxpr)
    if equation.primitive.name == 'dot_general'
    for variable in equation.outvars
  ]
  assert set(products) == {'bfloat16'}


def every_equation(jaxpr):
  for equation in jaxpr.eqns:
    yield equation
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      yield from every_equation(inner)


def test_padded_plan_ignores_the_mask():
  x = normal(2, 9, 4)
  mask = np.arange(9)[None, :] < np.array([[4], [9]])
  y = mix(x, make_mixing_plan(mask, lengths='padded'))
  assert relative_error(y, reference.mix_padded(float64(x))) < 1e-5


def test_fourier_mix_takes_any_leading_axes():
  x = normal(2, 3, 8, 6)
  y = fourier_mix(x)
  expected = reference.mix_padded(float64(x).reshape(6, 8, 6)).reshape(x.shape)
  assert relative_error(y, expected) < 1e-5
  assert relative_error(fourier_mix(x[0, 0]), expected[0, 0]) < 1e-5


def test_orthonormal_scale_keeps_white_noise():
  # Real part of a unitary map: half the energy of white noise.
  y = fourier_mix(normal(4, 64, 32))
  assert 0.45 < float(jnp.mean(y**2)) < 0.55


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: fourier_mix(normal(1, 4, 4), method='dct'), 'fft, matmul'),
    (lambda: fourier_mix(normal(1, 4, 4), scale='unit'), 'ortho, none'),
    (lambda: make_mixing_plan(np.ones((1, 4)), lengths='real'), 'exact'),
    (lambda: make_mixing_plan(np.ones(4)), 'batch, length'),
    (lambda: make_mixing_plan(np.ones((1, 4)), np.ones((1, 5))), 'equal'),
    (
      lambda: make_mixing_plan(
        np.ones((1, 4)), np.ones((1, 4)), length_method='fft'
      ),
      'packed',
    ),
    (
      lambda: mix(normal(1, 5, 4), make_mixing_plan(np.ones((1, 4)))),
      '5 tokens',
    ),
    (
      lambda: mix(normal(2, 4, 4), make_mixing_plan(np.ones((1, 4)))),
      '2 rows',
    ),
    (
      lambda: mix(normal(4, 4), make_mixing_plan(np.ones((1, 4)))),
      'batch, length, embed',
    ),
  ],
)
def test_bad_input_is_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()


@pytest.mark.parametrize('shape', SHAPES)
def test_two_mixings_return_each_token_and_its_mirror_image(shape):
  """With scale 'ortho' their mean; so layers in pairs keep tokens in place."""
  x = normal(1, *shape)
  segment_ids = jnp.ones((1, shape[0]), jnp.int32)
  plan = make_mixing_plan(
    segment_ids, lengths='padded', embed=shape[1], dtype=jnp.float32
  )
  mirrored = np.roll(np.float64(x)[:, ::-1, ::-1], 1, (1, 2))
  expected = (np.float64(x) + mirrored) / 2
  assert relative_error(mix(mix(x, plan), plan), expected) < 1e-5
