"""Mixing of rows that are sharded over devices, with minimum communication.

Each device transforms along the axis that is local, exchanges blocks so that
the other axis becomes local, transforms along that, and sends the result back.
With X the bytes of x per device:

- length sharded: 2 X, X each way. There, half of the features as complex
  numbers; back, all of the real features.
- embed sharded: 3 X. There, all features of the complex transform over length;
  back, the real result.

A gather would send (devices - 1) X to each device, and every device would do
the work of all. Data is float32 on the way there, and in x's dtype on the way
back. There is no communication inside a branch, since groups of devices may
take different branches.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fnet_t5x.fourier import half_spectrum
from fnet_t5x.fourier.plans import MixingPlan


def mix_length_sharded(
  x: Float[Array, 'batch local_length embed'], plan: MixingPlan, axis: str
) -> Float[Array, 'batch local_length embed']:
  """Mixes rows whose tokens are sharded over the mesh axis `axis`.

  Must be called inside `shard_map`; `plan` is the plan of whole rows.
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
  """Mixes rows whose features are sharded over the mesh axis `axis`.

  Must be called inside `shard_map`; `plan` is the plan of whole rows.
  """
  zero = jnp.zeros_like(x)
  # A x and B x; for Fourier, F x, since Im F x = Re F (-i x) = -S x.
  real, _ = plan.length_dft(x, zero)
  imaginary, _ = plan.length_dft(zero, x)
  pair = _exchange(
    jnp.stack([real, imaginary]), axis, split_axis=2, concat_axis=3
  )
  y = plan.embed_dft.real(pair[0], pair[1]).astype(x.dtype)
  return _exchange(y, axis, split_axis=2, concat_axis=1)


def _exchange(x, axis, split_axis, concat_axis):
  """All-to-all: splits x along one axis, concatenates along another."""
  return jax.lax.all_to_all(x, axis, split_axis, concat_axis, tiled=True)
