"""A learned factor per feature."""

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.partitioning import param_with_axes
from jaxtyping import Array, Float


class FeatureScale(nn.Module):
  """Multiplies each feature by a learned factor (LayerScale, Touvron et al.
  2021, arXiv 2103.17239).

  Attributes:
    initial: value of all factors at first.
    dtype: of the computation.
  """

  initial: float
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'batch length embed']
  ) -> Float[Array, 'batch length embed']:
    """Returns the scaled activations."""
    scale = param_with_axes(
      'scale',
      nn.initializers.constant(self.initial),
      x.shape[-1:],
      jnp.float32,
      axes=('embed',),
    ).astype(self.dtype)
    return x * jnp.broadcast_to(scale, x.shape)
