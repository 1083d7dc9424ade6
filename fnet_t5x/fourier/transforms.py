"""The two one-dimensional transforms that a mixing is made of."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fnet_t5x.fourier import half_spectrum
from fnet_t5x.fourier.bluestein import bluestein_real
from fnet_t5x.fourier.dft_matrix import matmul
from fnet_t5x.fourier.folded import folded_real
from fnet_t5x.fourier.methods import choose_method
from fnet_t5x.fourier.plan import (
  MixingPlan,
  make_embed_matrices,
  scale_factor,
)

Columns = Float[Array, 'batch length columns']


def transform_embed(
  x: Float[Array, 'batch length embed'],
  plan: MixingPlan,
  dtype: jnp.dtype | None = None,
) -> tuple[Float[Array, 'batch length half'], Float[Array, '...']]:
  """Returns a, b: a - i b is the transform over embed, its first half.

  With scale 'ortho' it is divided by sqrt(embed).

  Args:
    x: activations.
    plan: of their batch.
    dtype: of the result where matrices make it; None for float32.
  """
  embed = x.shape[-1]
  if choose_method(plan.method, embed) == 'fft':
    spectrum = jnp.fft.rfft(widen(x)) * scale_factor(embed, plan.scale)
    return spectrum.real, -spectrum.imag
  cosine, sine = embed_matrices(plan, embed, x.dtype)[..., : embed // 2 + 1]
  return (
    matmul('dk,bmd->bmk', cosine, x, dtype),
    matmul('dk,bmd->bmk', sine, x, dtype),
  )


def real_over_embed(
  real: Float[Array, 'batch length embed'],
  imaginary: Float[Array, 'batch length embed'],
  plan: MixingPlan,
) -> Float[Array, 'batch length embed']:
  """Returns Re(F_embed z) of z = real + i imaginary.

  With scale 'ortho' it is divided by sqrt(embed).
  """
  embed = real.shape[-1]
  if choose_method(plan.method, embed) == 'fft':
    z = jax.lax.complex(widen(real), widen(imaginary))
    return jnp.fft.fft(z).real * scale_factor(embed, plan.scale)
  cosine, sine = embed_matrices(plan, embed, real.dtype)
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
  return by_plan(
    plan,
    a,
    b,
    fft=_fft,
    matrices=_matrices,
    folded=_folded,
    bluestein=_bluestein,
  )


def by_plan(
  plan: MixingPlan,
  *x: Array,
  fft: Callable[..., Any],
  matrices: Callable[..., Any],
  folded: Callable[..., Any],
  bluestein: Callable[..., Any],
) -> Any:
  """Returns function(*x, plan), of the function that the plan asks for.

  Args:
    plan: of the batch.
    *x: arrays of its rows.
    fft: takes the FFT over the whole length.
    matrices: takes the plan's matrices, the rows' own or those they share.
    folded: takes each row's matrices of half its length.
    bluestein: takes each row over its own length.
  """
  if plan.chirp is not None:
    exact = bluestein
  elif plan.folded is not None:
    exact = folded
  elif plan.matrices is not None or plan.over_length is not None:
    exact = matrices
  else:
    return fft(*x, plan)
  if plan.lengths is None or choose_method(plan.method, plan.tokens) != 'fft':
    return exact(*x, plan)
  # A batch of full rows, the common case in pretraining, costs what the plain
  # transform does.
  full = jnp.all(plan.lengths == plan.tokens)
  return jax.lax.cond(full, fft, exact, *x, plan)


def sums_over_length(
  a: Columns, b: Columns, plan: MixingPlan
) -> tuple[Columns, Columns]:
  """Returns sums of a cos and of b sin over tokens, by the plan's matrices."""
  matrices, rows = length_matrices(plan)
  # Slices of the matrices would be copied, one in every layer.
  sums = matmul(f'{rows}cnm,bcmk->bcnk', matrices, jnp.stack([a, b], axis=1))
  return sums[:, 0], -sums[:, 1]


def length_matrices(plan: MixingPlan) -> tuple[Array, Literal['b', '']]:
  """Returns cos and -sin over tokens; 'b' if each row has its own."""
  if plan.matrices is not None:
    return plan.matrices, 'b'
  return plan.over_length, ''


def embed_matrices(
  plan: MixingPlan, embed: int, dtype: jnp.dtype
) -> Float[Array, '2 embed embed']:
  """Returns cos and sin over features, as the plan scales them."""
  if plan.over_embed is not None:
    return plan.over_embed
  return make_embed_matrices(embed, plan.scale).astype(dtype)


def _fft(a, b, plan):
  factor = scale_factor(plan.tokens, plan.scale)
  y = jnp.fft.fft(jax.lax.complex(widen(a), -widen(b)), axis=-2).real * factor
  return y, jnp.concatenate([y[:, :1], y[:, :0:-1]], axis=1)


def _matrices(a, b, plan):
  even, odd = sums_over_length(a, b, plan)
  return even - odd, even + odd


def _folded(a, b, plan):
  return folded_real(a, b, plan.folded, plan.lengths)


def _bluestein(a, b, plan):
  x = jax.lax.complex(widen(a), -widen(b))
  y = bluestein_real(x, plan.chirp, plan.kernel)
  return y, half_spectrum.turn_rows(y, plan.lengths)


def widen(x: Array) -> Array:
  """FFTs exist in float32 and float64 only."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))
