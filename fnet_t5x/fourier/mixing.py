"""FNet's token mixing: the real part of a two-dimensional Fourier transform.

For real x of `length` tokens and `embed` features, y = Re(F_length x F_embed)
(FNet, arXiv 2105.03824, equation 3). Two facts about this map carry the whole
module.

Half spectrum: y[n, D - k] = y[-n, k], so that an FFT over features yields
0..D/2 only and the rest are copied, with the order of the tokens reversed.

Symmetry: the map equals its own transpose, so that the backward pass is the
forward pass applied to the cotangent.
"""

import jax
from jaxtyping import Array, Float

from fnet_t5x.fourier.data_parallel import (
  is_sharded,
  map_shards,
  shard_map_batch,
)
from fnet_t5x.fourier.methods import Method, Scale
from fnet_t5x.fourier.mixing_plan import make_mixing_plan, padded_plan
from fnet_t5x.fourier.plans import MixingPlan
from fnet_t5x.fourier.sharded_mixing import (
  mix_embed_sharded,
  mix_length_sharded,
)

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
  plan = padded_plan(
    tokens, method=method, scale=scale, embed=embed, dtype=x.dtype
  )
  return mix(x.reshape(-1, tokens, embed), plan).reshape(x.shape)


def mix(
  x: Float[Array, 'batch length embed'],
  plan: MixingPlan,
  length_axis: str | None = None,
  embed_axis: str | None = None,
) -> Float[Array, 'batch length embed']:
  """Mixes a batch as `plan` says (see `make_mixing_plan`).

  Linear in x and its own transpose; composes with jit, vmap, grad, jvp, remat
  and scan. Nothing is differentiated with respect to the plan. Under a mesh
  with a data axis each device transforms its own rows only. Where a row is
  spread over devices, along tokens or features, they exchange what they must
  (`sharded_mixing.py`).

  With exact lengths, y at token n of a segment of L tokens is
  sum over the segment's m, and over k, of
  x[m, k] cos(2 pi (p_n p_m / L + k j / embed)) for feature j, times
  1 / sqrt(L embed) for 'ortho'; on padding y is 0, whatever finite x is there.

  Args:
    x: the activations.
    plan: of their batch.
    length_axis: the mesh axis that x's tokens are sharded over, if any.
    embed_axis: the mesh axis that x's features are sharded over, if any.

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
    solve=lambda _, rhs: _mix_shards(rhs, plan, length_axis, embed_axis),
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


def _mix_shards(x, plan, length_axis, embed_axis):
  tokens, embed = x.shape[1:]
  if is_sharded(length_axis, tokens):
    return map_shards(mix_length_sharded, x, plan, length_axis, dimension=1)
  if is_sharded(embed_axis, tokens, embed):
    return map_shards(mix_embed_sharded, x, plan, embed_axis, dimension=2)
  return shard_map_batch(lambda x, plan: plan.mix(x), x, plan)
