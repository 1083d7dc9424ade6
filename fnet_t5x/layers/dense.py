"""A linear map over one or several axes."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.partitioning import param_with_axes
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float


def as_tuple(value: int | Sequence[int]) -> tuple[int, ...]:
  """Returns an int or a sequence of ints as a tuple."""
  return (value,) if isinstance(value, int) else tuple(value)


class DenseGeneral(nn.Module):
  """A kernel that contracts `axis` of the input and appends `features`.

  With two names in `kernel_axes` the kernel is stored as a matrix,
  [contracted, produced], however many axes those are in the activations; with
  more names, it is stored with one axis for each of them.

  Attributes:
    features: size of each output axis.
    axis: input axes to contract.
    dtype: of the computation.
    kernel_init: initializer of the kernel as a matrix.
    kernel_axes: logical names of the stored kernel's axes.
    use_bias: whether to add a bias, stored like the kernel's produced axes.
    bias_init: initializer of the bias.
  """

  features: int | Sequence[int]
  axis: int | Sequence[int] = -1
  dtype: jnp.dtype = jnp.float32
  kernel_init: Initializer = nn.initializers.variance_scaling(
    1.0, 'fan_in', 'truncated_normal'
  )
  kernel_axes: tuple[str, ...] = ()
  use_bias: bool = False
  bias_init: Initializer = nn.initializers.zeros

  @nn.compact
  def __call__(self, inputs: Float[Array, '...']) -> Float[Array, '...']:
    """Applies the map; uncontracted axes come first in the output."""
    features = as_tuple(self.features)
    contracted = tuple(axis % inputs.ndim for axis in as_tuple(self.axis))
    sizes = tuple(inputs.shape[axis] for axis in contracted)
    matrix = (math.prod(sizes), math.prod(features))
    stored = sizes + features if len(self.kernel_axes) > 2 else matrix

    def init(key, shape, dtype):
      return self.kernel_init(key, matrix, dtype).reshape(shape)

    kernel = param_with_axes(
      'kernel', init, stored, jnp.float32, axes=self.kernel_axes
    )
    kernel = kernel.astype(self.dtype).reshape(sizes + features)
    dimensions = ((contracted, tuple(range(len(sizes)))), ((), ()))
    x = jax.lax.dot_general(inputs.astype(self.dtype), kernel, dimensions)
    if not self.use_bias:
      return x
    produced = len(features) if len(self.kernel_axes) > 2 else 1
    bias = param_with_axes(
      'bias',
      self.bias_init,
      stored[-produced:],
      jnp.float32,
      axes=self.kernel_axes[-produced:],
    )
    bias = bias.astype(self.dtype).reshape(features)
    return x + jnp.broadcast_to(bias, x.shape)
