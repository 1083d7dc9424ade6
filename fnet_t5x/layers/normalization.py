"""Root-mean-square normalization (Zhang and Sennrich 2019, 1910.07467)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.partitioning import param_with_axes
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float


class LayerNorm(nn.Module):
  """T5's layer norm: `x / rms(x) * scale`, without mean or bias.

  The root mean square is computed in float32 whatever the dtype.

  Attributes:
    epsilon: added to the mean square.
    dtype: of the output.
    scale_init: initializer of the scale.
  """

  epsilon: float = 1e-6
  dtype: jnp.dtype = jnp.float32
  scale_init: Initializer = nn.initializers.ones

  @nn.compact
  def __call__(self, x: Float[Array, '... embed']) -> Float[Array, '... embed']:
    """Normalizes each vector along the last axis."""
    x = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    x = (x * jax.lax.rsqrt(mean_square + self.epsilon)).astype(self.dtype)
    scale = param_with_axes(
      'scale', self.scale_init, x.shape[-1:], jnp.float32, axes=('embed',)
    )
    return x * jnp.broadcast_to(scale.astype(self.dtype), x.shape)
