"""Layer normalization: T5's, by the root mean square, and the original one."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.partitioning import param_with_axes
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float


class LayerNorm(nn.Module):
  """T5's layer norm: `x / rms(x) * scale`, without mean or bias (1910.07467).

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


class CenteredLayerNorm(nn.Module):
  """Layer norm with mean and bias (Ba et al. 2016, 1607.06450), BERT's.

  `(x - mean(x)) / sqrt(variance(x) + epsilon) * scale + bias`, computed in
  float32 whatever the dtype.

  Attributes:
    epsilon: added to the variance; BERT's and FNet's value.
    dtype: of the output.
  """

  epsilon: float = 1e-12
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, '... embed']) -> Float[Array, '... embed']:
    """Normalizes each vector along the last axis."""
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    # Of the centered vector: E[x^2] - E[x]^2 would cancel.
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(variance + self.epsilon)
    scale, bias = (
      param_with_axes(name, init, x.shape[-1:], jnp.float32, axes=('embed',))
      for name, init in (
        ('scale', nn.initializers.ones),
        ('bias', nn.initializers.zeros),
      )
    )
    x = x * jnp.broadcast_to(scale, x.shape) + jnp.broadcast_to(bias, x.shape)
    return x.astype(self.dtype)
