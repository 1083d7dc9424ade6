"""FNet's token mixing: the real part of a two-dimensional Fourier transform.

For real x of `length` tokens and `embed` features, y = Re(F_length x F_embed)
(FNet, arXiv 2105.03824, equation 3). The implementation relies on two
properties of this map.

Half spectrum: y[n, D - k] = y[-n, k], so an FFT over features need only compute
0..D/2; the rest are copies with the order of the tokens reversed.

Symmetry: the map is its own transpose, so the backward pass is the forward pass
applied to the cotangent.
"""

from typing import Any

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

__all__ = [
  'MixingPlan',
  'fourier_mix',
  'make_mixing_plan',
  'mix',
  'mix_shards',
]


def fourier_mix(
  x: Float[Array, '*batch length embed'],
  *,
  scale: Scale = 'ortho',
  method: Method = 'auto',
) -> Float[Array, '*batch length embed']:
  """Returns Re(F_length x F_embed) over the whole of both axes, as in FNet.

  Padding is transformed like any other token. Equivalent to
  `jnp.fft.fftn(x, axes=(-2, -1)).real`, divided by sqrt(length embed) for
  'ortho'.

  Args:
    x: real activations. The result has the same dtype; FFTs run in float32,
      matrix products multiply in x's dtype and accumulate in float32.
    scale: 'ortho' preserves the mean square of white noise up to a factor 1/2;
      'none', as in FNet, multiplies it by length * embed.
    method: 'fft', 'matmul', or 'auto' to choose by backend and lengths.
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
  """Mixes a batch according to `plan` (see `make_mixing_plan`).

  The map is linear in x and its own transpose; it composes with jit, vmap,
  grad, jvp, remat and scan. Nothing is differentiated with respect to the plan.
  Under a mesh with a data axis each device transforms only its own rows. If
  rows are sharded along tokens or features, devices exchange the minimum
  (`sharded_mixing.py`).

  With exact lengths, feature j of y at token n of a segment of L tokens is the
  sum over tokens m of the segment and features k of
  x[m, k] cos(2 pi (p_n p_m / L + k j / embed)), times 1 / sqrt(L embed) for
  'ortho'; on padding y is 0, for any finite x there. A plan of the Hartley
  transform has cos + sin in place of cos.

  Args:
    x: the activations.
    plan: the plan of their batch.
    length_axis: the mesh axis that x's tokens are sharded over, if any.
    embed_axis: the mesh axis that x's features are sharded over, if any.

  Raises:
    ValueError: x is not [batch, length, embed] with the plan's batch and
      length.
  """
  _check(x, plan)
  # The map M is linear and symmetric. `custom_linear_solve` is JAX's only rule
  # for such maps that composes with every transformation: it maps tangents by
  # M and, since M is declared symmetric, cotangents too. Only `solve` is ever
  # run; the first argument would be differentiated if it closed over x.
  return jax.lax.custom_linear_solve(
    lambda y: y,
    x,
    solve=lambda _, rhs: mix_shards(rhs, plan, length_axis, embed_axis),
    symmetric=True,
  )


def _check(x, plan):
  if x.ndim != 3:
    raise ValueError(f'mix: x is {x.shape}, not [batch, length, embed]')
  if x.shape[1] != plan.tokens:
    raise ValueError(
      f'mix: x has {x.shape[1]} tokens per row, its plan {plan.tokens}'
    )
  if plan.batch is not None and x.shape[0] != plan.batch:
    raise ValueError(
      f'mix: x has {x.shape[0]} rows, its plan {plan.batch}; make the plan '
      'from the same batch'
    )


def mix_shards(
  x: Float[Array, 'batch length embed'],
  plan: Any,
  length_axis: str | None = None,
  embed_axis: str | None = None,
) -> Float[Array, 'batch length embed']:
  """Does `mix` by any plan, symmetric or not, differentiated as it is."""
  tokens, embed = x.shape[1:]
  if is_sharded(length_axis, tokens):
    return map_shards(mix_length_sharded, x, plan, length_axis, dimension=1)
  if is_sharded(embed_axis, tokens, embed):
    return map_shards(mix_embed_sharded, x, plan, embed_axis, dimension=2)
  return shard_map_batch(lambda x, plan: plan.mix(x), x, plan)
