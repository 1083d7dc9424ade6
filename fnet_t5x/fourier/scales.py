"""Scale of a transform: none or orthonormal."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, Int

from fnet_t5x.fourier.methods import Scale


def scale_factor(points: int, scale: Scale) -> float:
  """Returns the factor of a transform of `points` points."""
  return points**-0.5 if scale == 'ortho' else 1.0


def scaled(
  x: Inexact[Array, '*shape'], points: Int[Array, '*#shape'], scale: Scale
) -> Inexact[Array, '*shape']:
  """Returns x times the factors for the lengths in `points`.

  A length of 0, as of padding, counts as 1.
  """
  if scale == 'none':
    return x
  return x * jax.lax.rsqrt(jnp.maximum(points, 1).astype(jnp.float32))
