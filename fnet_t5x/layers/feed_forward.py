"""The position-wise feed-forward block."""

import functools
import operator
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.partitioning import with_sharding_constraint
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from fnet_t5x.layers.dense import DenseGeneral

Activation = str | Callable[[Array], Array]


def activation_function(activation: Activation) -> Callable[[Array], Array]:
  """Returns the function for 'linear', a name in `flax.linen`, or a function.

  Raises:
    ValueError: if flax has no such function.
  """
  if callable(activation):
    return activation
  if activation == 'linear':
    return lambda x: x
  if not hasattr(nn, activation):
    raise ValueError(
      f"mlp_activations: flax.linen has no '{activation}'; use 'linear' or "
      "the name of a flax.linen function, such as 'gelu' or 'relu'"
    )
  return getattr(nn, activation)


class MlpBlock(nn.Module):
  """`wo(dropout(product over i of activation_i(wi_i(x))))`.

  `('relu',)` is T5 1.0's block; `('gelu', 'linear')` is T5 1.1's gated one
  (GEGLU, Shazeer 2020, arXiv 2002.05202).

  Attributes:
    intermediate_dim: width of the hidden layer.
    activations: one entry per parallel projection.
    kernel_init: initializer of every projection.
    intermediate_dropout_rate: dropout on the hidden layer, one mask for all
      positions of a row.
    dtype: of the computation.
    length_axis: logical name of the activations' length axis.
  """

  intermediate_dim: int = 2048
  activations: Sequence[Activation] = ('relu',)
  kernel_init: Initializer = nn.initializers.variance_scaling(
    1.0, 'fan_in', 'truncated_normal'
  )
  intermediate_dropout_rate: float = 0.1
  dtype: jnp.dtype = jnp.float32
  length_axis: str = 'length'

  @nn.compact
  def __call__(
    self,
    inputs: Float[Array, 'batch length embed'],
    deterministic: bool = False,
  ) -> Float[Array, 'batch length embed']:
    """Applies the block to each position independently."""
    dense = functools.partial(
      DenseGeneral, dtype=self.dtype, kernel_init=self.kernel_init
    )
    gated = len(self.activations) > 1
    branches = [
      activation_function(activation)(
        dense(
          self.intermediate_dim,
          kernel_axes=('embed', 'mlp'),
          name=f'wi_{i}' if gated else 'wi',
        )(inputs)
      )
      for i, activation in enumerate(self.activations)
    ]
    x = functools.reduce(operator.mul, branches)
    x = nn.Dropout(rate=self.intermediate_dropout_rate, broadcast_dims=(-2,))(
      x, deterministic=deterministic
    )
    x = with_sharding_constraint(x, ('batch', self.length_axis, 'mlp'))
    return dense(inputs.shape[-1], kernel_axes=('mlp', 'embed'), name='wo')(x)
