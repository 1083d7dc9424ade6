"""The two one-dimensional transforms that a mixing is made of."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fnet_t5x.fourier import half_spectrum
from fnet_t5x.fourier.bluestein import bluestein_real
from fnet_t5x.fourier.dft_matrix import dft_matrices
from fnet_t5x.fourier.methods import choose_method
from fnet_t5x.fourier.plan import MixingPlan

Columns = Float[Array, 'batch length columns']


def transform_embed(
  x: Float[Array, 'batch length embed'], plan: MixingPlan
) -> tuple[Float[Array, 'batch length half'], Float[Array, '...']]:
  """Returns a, b: a - i b is the transform over embed, its first half."""
  embed = x.shape[-1]
  if choose_method(plan.method, embed) == 'fft':
    spectrum = jnp.fft.rfft(widen(x))
    return spectrum.real, -spectrum.imag
  cosine, sine = dft_matrices(embed, embed // 2 + 1, embed, x.dtype)
  return matmul('dk,bmd->bmk', cosine, x), matmul('dk,bmd->bmk', sine, x)


def real_over_embed(
  real: Float[Array, 'batch length embed'],
  imaginary: Float[Array, 'batch length embed'],
  plan: MixingPlan,
) -> Float[Array, 'batch length embed']:
  """Returns Re(F_embed z) of z = real + i imaginary."""
  embed = real.shape[-1]
  if choose_method(plan.method, embed) == 'fft':
    return jnp.fft.fft(jax.lax.complex(widen(real), widen(imaginary))).real
  cosine, sine = dft_matrices(embed, embed, embed, real.dtype)
  return matmul('dk,bmd->bmk', cosine, real) + matmul(
    'dk,bmd->bmk', sine, imaginary
  )


def real_over_length(
  a: Columns, b: Columns, plan: MixingPlan
) -> tuple[Columns, Columns]:
  """Returns Re(F_length (a - i b)) and Re(F_length (a + i b)), each column.

  Of columns k of `transform_embed` these are the mixed features k and
  embed - k. With scale 'ortho' they are divided by sqrt(length).
  """
  if plan.chirp is not None:
    exact = _bluestein
  elif plan.cosine is not None:
    exact = _segments
  else:
    return _whole(a, b, plan)
  if plan.lengths is None:
    return exact(a, b, plan)
  full = jnp.all(plan.lengths == plan.tokens)
  return jax.lax.cond(full, _whole, exact, a, b, plan)


def _whole(a, b, plan):
  tokens = plan.tokens
  factor = tokens**-0.5 if plan.scale == 'ortho' else 1.0
  if choose_method(plan.method, tokens) == 'fft':
    y = jnp.fft.fft(jax.lax.complex(widen(a), -widen(b)), axis=-2).real * factor
    return y, jnp.concatenate([y[:, :1], y[:, :0:-1]], axis=1)
  cosine, sine = dft_matrices(tokens, tokens, tokens, a.dtype)
  even = matmul('nm,bmk->bnk', cosine, a) * factor
  odd = matmul('nm,bmk->bnk', sine, b) * factor
  return even - odd, even + odd


def _segments(a, b, plan):
  even = matmul('bnm,bmk->bnk', plan.cosine, a)
  odd = matmul('bnm,bmk->bnk', plan.sine, b)
  return even - odd, even + odd


def _bluestein(a, b, plan):
  x = jax.lax.complex(widen(a), -widen(b))
  y = bluestein_real(x, plan.chirp, plan.kernel)
  return y, half_spectrum.turn_rows(y, plan.lengths)


def matmul(subscripts: str, matrix: Array, x: Array) -> Array:
  """Multiplies in the matrix's type, adds in at least float32."""
  total = jnp.promote_types(matrix.dtype, jnp.float32)
  # TPUs and GPUs would otherwise round float32 operands to bfloat16 or TF32.
  precision = 'highest' if matrix.dtype == total else 'default'
  return jnp.einsum(
    subscripts,
    matrix,
    x.astype(matrix.dtype),
    precision=precision,
    preferred_element_type=total,
  )


def widen(x: Array) -> Array:
  """FFTs exist in float32 and float64 only."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))
