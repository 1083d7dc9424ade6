"""FNet's token mixing: the real part of a two-dimensional Fourier transform.

For real x of `length` tokens and `embed` features, y = Re(F_length x F_embed)
(FNet, arXiv 2105.03824, equation 3). Two facts about this map carry the whole
module.

Half spectrum: y[n, D - k] = y[-n, k], so that features 0..D/2 are transformed
and the rest are copied, with the order of the tokens reversed.

Symmetry: the map equals its own transpose, so that the backward pass is the
forward pass applied to the cotangent.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fnet_t5x.fourier import half_spectrum
from fnet_t5x.fourier.bluestein import bluestein
from fnet_t5x.fourier.data_parallel import map_rows
from fnet_t5x.fourier.dft_matrix import dft_matrices
from fnet_t5x.fourier.methods import Method, Scale, choose_method
from fnet_t5x.fourier.plan import MixingPlan, make_mixing_plan, padded_plan

__all__ = ['MixingPlan', 'fourier_mix', 'make_mixing_plan', 'mix']


def fourier_mix(
  x: Float[Array, '*batch length embed'],
  *,
  scale: Scale = 'ortho',
  method: Method = 'auto',
) -> Float[Array, '*batch length embed']:
  """Returns Re(F_length x F_embed) over the whole of both axes, as FNet does.

  Padding is transformed like any token. Equivalent plain code:
  `jnp.fft.fftn(x, axes=(-2, -1)).real`, over sqrt(length embed) for 'ortho'.

  Args:
    x: real activations. bfloat16 and float16 keep their type; the FFT itself
      runs in float32, matrices multiply in x's type and add in float32.
    scale: 'ortho' keeps the mean square of white noise up to a factor 1/2;
      'none' is FNet's own, which grows it by length * embed.
    method: 'fft', 'matmul', or 'auto' for this backend and these lengths.
  """
  tokens, embed = x.shape[-2:]
  plan = padded_plan(tokens, method=method, scale=scale)
  return mix(x.reshape(-1, tokens, embed), plan).reshape(x.shape)


def mix(
  x: Float[Array, 'batch length embed'], plan: MixingPlan
) -> Float[Array, 'batch length embed']:
  """Mixes a batch as `plan` says (see `make_mixing_plan`).

  Linear in x and its own transpose; composes with jit, vmap, grad, jvp, remat
  and scan. Nothing is differentiated with respect to the plan. Under a mesh
  with a data axis each device transforms its own rows only.

  With exact lengths, y at token n of a segment of L tokens is
  sum over the segment's m, and over k, of
  x[m, k] cos(2 pi (p_n p_m / L + k j / embed)) for feature j, times
  1 / sqrt(L embed) for 'ortho'; on padding y is 0 and x is not read.

  Raises:
    ValueError: x is not [batch, length, embed] of the plan's length and batch.
  """
  _check(x, plan)
  # The map M is linear and symmetric. `custom_linear_solve` is JAX's one rule
  # for such maps that composes with every transformation: tangents are mapped
  # by M and, being declared symmetric, so are cotangents. Only `solve` is ever
  # run; the first argument would be differentiated if it closed over x.
  return jax.lax.custom_linear_solve(
    lambda y: y,
    x,
    solve=lambda _, rhs: map_rows(_mix_rows, rhs, plan),
    symmetric=True,
  )


def _check(x, plan):
  if x.ndim != 3:
    raise ValueError(f'mix: x is {x.shape}, not [batch, length, embed]')
  if x.shape[1] != plan.tokens:
    raise ValueError(
      f'mix: x holds {x.shape[1]} tokens a row, its plan {plan.tokens}'
    )
  if plan.batch is not None and x.shape[0] != plan.batch:
    raise ValueError(
      f'mix: x holds {x.shape[0]} rows, its plan {plan.batch}; make the plan '
      'from the same batch'
    )


def _mix_rows(x, plan):
  """The map itself, on the rows of one device."""
  if plan.chirp is not None:
    exact = _mix_bluestein
  elif plan.cosine is not None:
    exact = _mix_segments
  else:
    return _mix_whole(x, plan)
  if plan.lengths is None:
    return exact(x, plan)
  # A batch of full rows, the common case in pretraining, costs what the plain
  # transform does.
  return jax.lax.cond(
    jnp.all(plan.lengths == plan.tokens), _mix_whole, exact, x, plan
  )


def _mix_whole(x, plan):
  tokens, embed = x.shape[-2:]
  factor = (tokens * embed) ** -0.5 if plan.scale == 'ortho' else 1.0
  over_embed = choose_method(plan.method, embed)
  over_length = choose_method(plan.method, tokens)
  if over_embed == over_length == 'fft':
    half = jnp.fft.rfftn(_widen(x), axes=(-2, -1)).real
    return half_spectrum.mirror(half * factor, embed).astype(x.dtype)
  cosine_part, sine_part = _transform_embed(x, over_embed)
  if over_length == 'fft':
    half = jnp.fft.fft(jax.lax.complex(cosine_part, -sine_part), axis=-2).real
    return half_spectrum.mirror(half * factor, embed).astype(x.dtype)
  cosine, sine = dft_matrices(tokens, tokens, tokens, x.dtype)
  even = _matmul('nm,bmk->bnk', cosine, cosine_part.astype(x.dtype))
  odd = _matmul('nm,bmk->bnk', sine, sine_part.astype(x.dtype))
  return half_spectrum.unfold(even * factor, odd * factor, embed).astype(
    x.dtype
  )


def _mix_segments(x, plan):
  embed = x.shape[-1]
  factor = embed**-0.5 if plan.scale == 'ortho' else 1.0
  cosine_part, sine_part = _transform_embed(
    x, choose_method(plan.method, embed)
  )
  kind = plan.cosine.dtype
  even = _matmul('bnm,bmk->bnk', plan.cosine, cosine_part.astype(kind))
  odd = _matmul('bnm,bmk->bnk', plan.sine, sine_part.astype(kind))
  return half_spectrum.unfold(even * factor, odd * factor, embed).astype(
    x.dtype
  )


def _mix_bluestein(x, plan):
  embed = x.shape[-1]
  factor = embed**-0.5 if plan.scale == 'ortho' else 1.0
  cosine_part, sine_part = _transform_embed(
    x, choose_method(plan.method, embed)
  )
  half = bluestein(
    jax.lax.complex(cosine_part, -sine_part), plan.chirp, plan.kernel
  ).real
  return half_spectrum.mirror_rows(half * factor, embed, plan.lengths).astype(
    x.dtype
  )


def _transform_embed(x, method):
  """Returns the real part of rfft(x) over embed, and minus the imaginary."""
  embed = x.shape[-1]
  if method == 'fft':
    spectrum = jnp.fft.rfft(_widen(x))
    return spectrum.real, -spectrum.imag
  cosine, sine = dft_matrices(embed, embed // 2 + 1, embed, x.dtype)
  return (
    _matmul('bmd,dk->bmk', x, cosine),
    _matmul('bmd,dk->bmk', x, sine),
  )


def _matmul(subscripts, a, b):
  # Float32 operands ask for float32 products, which TPUs and GPUs would
  # otherwise round to bfloat16 or TF32.
  kind = jnp.promote_types(a.dtype, jnp.float32)
  precision = 'highest' if a.dtype == kind else 'default'
  return jnp.einsum(
    subscripts, a, b, precision=precision, preferred_element_type=kind
  )


def _widen(x):
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))
