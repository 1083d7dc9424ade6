"""Mixing where a row is spread over devices: the least that must be sent.

Each device transforms along the axis that it has whole, sends pieces so that it
has the other one whole, transforms along that, and sends the result back. With
X the bytes of x on one device, before and after:

- length sharded: 2 X, X each way. Half of the features are sent, as complex
  numbers; what comes back is both halves of the real features.
- embed sharded: 3 X. The complex transform over length, all features; and the
  real result.

A gather would bring (devices - 1) X to each device, and leave every device the
arithmetic of all. All bytes are float32's on the way there, x's type on the way
back. Nothing is sent inside of a branch: groups of devices take branches of
their own.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fnet_t5x.fourier import half_spectrum
from fnet_t5x.fourier.plans import MixingPlan


def mix_length_sharded(
  x: Float[Array, 'batch local_length embed'], plan: MixingPlan, axis: str
) -> Float[Array, 'batch local_length embed']:
  """Mixes rows whose tokens are spread over the mesh axis `axis`.

  To be called inside `shard_map`; `plan` is that of the whole rows.
  """
  embed = x.shape[-1]
  pair = jnp.stack(plan.embed_dft.half(x))
  half, devices = pair.shape[-1], jax.lax.axis_size(axis)
  padding = (0, 0), (0, 0), (0, 0), (0, -half % devices)
  pair = _exchange(jnp.pad(pair, padding), axis, split_axis=3, concat_axis=2)
  pair = jnp.stack(plan.length_dft(pair[0], pair[1]))
  pair = pair.astype(x.dtype)
  pair = _exchange(pair, axis, split_axis=2, concat_axis=3)[..., :half]
  return half_spectrum.join(pair[0], pair[1], embed)


def mix_embed_sharded(
  x: Float[Array, 'batch length local_embed'], plan: MixingPlan, axis: str
) -> Float[Array, 'batch length local_embed']:
  """Mixes tokens whose features are spread over the mesh axis `axis`.

  To be called inside `shard_map`; `plan` is that of the whole rows.
  """
  zero = jnp.zeros_like(x)
  # The imaginary part of F x is the real part of F (-i x).
  real, _ = plan.length_dft(x, zero)
  imaginary, _ = plan.length_dft(zero, x)
  pair = _exchange(
    jnp.stack([real, imaginary]), axis, split_axis=2, concat_axis=3
  )
  y = plan.embed_dft.real(pair[0], pair[1]).astype(x.dtype)
  return _exchange(y, axis, split_axis=2, concat_axis=1)


def _exchange(x, axis, split_axis, concat_axis):
  """Splits x along one axis, joins what others send along another."""
  return jax.lax.all_to_all(x, axis, split_axis, concat_axis, tiled=True)
