"""The symmetric rule under JAX's transformations, for every mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.fourier import reference
from fnet_t5x.fourier.mixing import make_mixing_plan, mix

BATCH, LENGTH, EMBED = 2, 9, 6
ROW_LENGTHS = [9, 5]
MASK = np.arange(LENGTH)[None, :] < np.array(ROW_LENGTHS)[:, None]
SEGMENTS = np.array([[1] * 4 + [2] * 5, [1] * 5 + [0] * 4])
POSITIONS = np.array([[*range(4), *range(5)], [*range(5), 0, 0, 0, 0]])
MODES = {
  'padded': lambda: make_mixing_plan(MASK, lengths='padded'),
  'bluestein': lambda: make_mixing_plan(MASK, length_method='fft'),
  'matrices': lambda: make_mixing_plan(MASK, length_method='matmul'),
  'packed': lambda: make_mixing_plan(SEGMENTS, POSITIONS),
}


def expected_mix(x, mode):
  x = np.asarray(x, np.float64)
  if mode == 'padded':
    return reference.mix_padded(x)
  if mode == 'packed':
    return reference.mix_packed(x, SEGMENTS, POSITIONS)
  return reference.mix_exact(x, ROW_LENGTHS)


def normal(*shape, seed=0):
  x = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(x, jnp.float32)


def assert_close(actual, expected, tolerance=1e-5):
  expected = np.asarray(expected, np.float64)
  error = np.abs(np.asarray(actual, np.float64) - expected).max()
  assert error / np.abs(expected).max() < tolerance


@pytest.fixture(params=MODES)
def mode(request):
  return request.param


def test_plan_made_inside_jit(mode):
  x = normal(BATCH, LENGTH, EMBED)
  y = jax.jit(lambda x: mix(x, MODES[mode]()))(x)
  assert_close(y, expected_mix(x, mode))


@pytest.mark.slow
def test_vmap_over_activations(mode):
  x, plan = normal(3, BATCH, LENGTH, EMBED), MODES[mode]()
  y = jax.vmap(mix, in_axes=(0, None))(x, plan)
  assert_close(y, np.stack([expected_mix(row, mode) for row in x]))


@pytest.mark.slow
def test_vmap_over_plans():
  masks = jnp.asarray(np.stack([MASK, np.ones_like(MASK)]))
  x = normal(2, BATCH, LENGTH, EMBED)
  for length_method in ('fft', 'matmul'):
    y = jax.vmap(
      lambda x, mask, way=length_method: mix(
        x, make_mixing_plan(mask, length_method=way)
      )
    )(x, masks)
    expected = [
      expected_mix(x[0], 'bluestein'),
      reference.mix_padded(np.asarray(x[1], np.float64)),
    ]
    assert_close(y, np.stack(expected))


def test_grad(mode):
  # d/dx sum sin(M x) = M^T cos(M x), and M^T = M.
  x, plan = normal(BATCH, LENGTH, EMBED), MODES[mode]()
  grad = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(mix(x, plan)))))(x)
  expected = expected_mix(np.cos(expected_mix(x, mode)), mode)
  assert_close(grad, expected)


def test_jvp(mode):
  x, plan = normal(BATCH, LENGTH, EMBED), MODES[mode]()
  tangent = normal(BATCH, LENGTH, EMBED, seed=1)
  y, dy = jax.jvp(lambda x: mix(x, plan), (x,), (tangent,))
  assert_close(y, expected_mix(x, mode))
  assert_close(dy, expected_mix(tangent, mode))


@pytest.mark.slow
def test_both_jacobians_are_one_symmetric_matrix(mode):
  x, plan = normal(BATCH, LENGTH, EMBED), MODES[mode]()
  size = x.size

  def flat(v):
    return mix(v.reshape(x.shape), plan).reshape(-1)

  forward = jax.jacfwd(flat)(x.reshape(-1))
  backward = jax.jacrev(flat)(x.reshape(-1))
  basis = np.eye(size).reshape(size, *x.shape)
  expected = np.stack([expected_mix(e, mode).reshape(-1) for e in basis])
  assert_close(expected, expected.T)
  assert_close(forward, expected)
  assert_close(backward, expected)


@pytest.mark.slow
def test_second_derivatives(mode):
  # f = sum (M x)^3: the Hessian times v is 6 M (M x * M v).
  x, v = normal(BATCH, LENGTH, EMBED), normal(BATCH, LENGTH, EMBED, seed=1)
  plan = MODES[mode]()
  grad = jax.grad(lambda x: jnp.sum(mix(x, plan) ** 3))
  expected = 6 * expected_mix(
    expected_mix(x, mode) * expected_mix(v, mode), mode
  )
  assert_close(jax.jvp(grad, (x,), (v,))[1], expected)
  reverse = jax.grad(lambda x: jnp.vdot(grad(x), v))(x)
  assert_close(reverse, expected)


@pytest.mark.slow
def test_remat_and_scan_share_one_plan(mode):
  x = normal(BATCH, LENGTH, EMBED)
  gains = normal(3, EMBED, seed=1)

  @jax.checkpoint
  def layer(x, gain, plan):
    return x + jnp.tanh(mix(x, plan) * gain[None, None, :])

  @jax.jit
  def scanned(x, gains):
    plan = MODES[mode]()
    x, _ = jax.lax.scan(lambda x, g: (layer(x, g, plan), None), x, gains)
    return jnp.sum(x**2)

  def plain(x, gains):
    # The same by dense matrices, differentiated by JAX.
    basis = np.eye(x.size).reshape(x.size, *x.shape)
    matrix = np.stack([expected_mix(e, mode).reshape(-1) for e in basis])
    matrix = jnp.asarray(matrix, jnp.float32)
    for gain in gains:
      mixed = (matrix @ x.reshape(-1)).reshape(x.shape)
      x = x + jnp.tanh(mixed * gain[None, None, :])
    return jnp.sum(x**2)

  value, grads = jax.value_and_grad(scanned, argnums=(0, 1))(x, gains)
  expected, expected_grads = jax.value_and_grad(plain, argnums=(0, 1))(x, gains)
  assert_close(value, expected)
  for actual, wanted in zip(grads, expected_grads, strict=True):
    assert_close(actual, wanted, 2e-5)


def test_backward_is_one_forward(mode):
  # The symmetric rule: as many transforms backward as forward. JAX's transpose
  # of a real FFT would need more.
  plan = MODES[mode]()
  x = normal(BATCH, LENGTH, EMBED)

  def count(function):
    text = jax.jit(function).lower(x, plan).as_text()
    return text.count('stablehlo.fft') + text.count('stablehlo.dot_general')

  def pullback(ct, plan):
    return jax.vjp(lambda x: mix(x, plan), x)[1](ct)[0]

  assert count(pullback) == count(mix) > 0


def test_full_rows_run_the_plain_transform():
  # The condition must remain in the compiled program rather than become a
  # select between two computed results.
  x = normal(BATCH, LENGTH, EMBED)
  for length_method in ('fft', 'matmul'):
    plan = make_mixing_plan(MASK, length_method=length_method)
    text = jax.jit(jax.grad(lambda x, p: jnp.sum(mix(x, p) ** 2))).lower(
      x, plan
    )
    assert 'conditional' in text.compile().as_text()
