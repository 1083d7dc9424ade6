"""Token mixing by learned matrices: the Linear baseline of the FNet paper."""

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.partitioning import param_with_axes, with_sharding_constraint
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float, Int

from fnet_t5x.layers.dense import DenseGeneral


def mix_tokens(
  kernel: Float[Array, 'max_length max_length'],
  x: Float[Array, 'batch length embed'],
  segment_ids: Int[Array, 'batch length'],
  positions: Int[Array, 'batch length'] | None = None,
) -> Float[Array, 'batch length embed']:
  """Returns `y_n = sum over m of kernel[p_n, p_m] x_m`.

  The sum runs over the tokens of n's own segment, and p is the position within
  it.

  Args:
    kernel: weights, at least as long as the rows.
    x: activations.
    segment_ids: 0 on padding, elsewhere one id per segment.
    positions: of each token in its segment. None if every row is one segment
      that starts at position 0; one matrix then serves the whole batch.

  Returns:
    The mixed activations, 0 on padding.
  """
  length = x.shape[1]
  if positions is None:
    real = (segment_ids > 0).astype(x.dtype)[:, :, None]
    x = x * jnp.broadcast_to(real, x.shape)
    x = jnp.einsum('nm,bmd->bnd', kernel[:length, :length], x)
    return x * jnp.broadcast_to(real, x.shape)
  same = segment_ids[:, :, None] == segment_ids[:, None, :]
  same = jnp.where(segment_ids[:, :, None] > 0, same, False)
  kernel = kernel[positions[:, :, None], positions[:, None, :]]
  return jnp.einsum('bnm,bmd->bnd', jnp.where(same, kernel, 0), x)


class LinearMixing(nn.Module):
  """Mixing `y_n = sum over m of W[p_n, p_m] (V x_m)`, with learned W and V.

  The sum runs over the tokens of n's own segment, and p is the position within
  it, which makes the result invariant to padding and packing (FNet,
  2105.03824, section 4.1, sums over the padded row).

  Attributes:
    max_length: size of W, [max_length, max_length].
    dtype: of the computation.
    kernel_init: initializer of both matrices.
  """

  max_length: int
  dtype: jnp.dtype = jnp.float32
  kernel_init: Initializer = nn.initializers.variance_scaling(
    1.0, 'fan_in', 'normal'
  )

  @nn.compact
  def __call__(
    self,
    inputs: Float[Array, 'batch length embed'],
    segment_ids: Int[Array, 'batch length'],
    positions: Int[Array, 'batch length'] | None = None,
  ) -> Float[Array, 'batch length embed']:
    """Mixes the tokens of each segment.

    Args:
      inputs: activations.
      segment_ids: 0 on padding, elsewhere one id per segment.
      positions: of each token in its segment. None if every row is one segment
        that starts at position 0; one matrix then serves the whole batch.

    Returns:
      The mixed activations, 0 on padding.

    Raises:
      ValueError: if rows are longer than `max_length`.
    """
    length = inputs.shape[1]
    if length > self.max_length:
      raise ValueError(
        f'encoder inputs of {length} tokens: linear mixing is limited to '
        f'max_encoder_length={self.max_length}; shorten the feature length or '
        'raise max_encoder_length'
      )
    x = DenseGeneral(
      inputs.shape[-1],
      dtype=self.dtype,
      kernel_init=self.kernel_init,
      kernel_axes=('embed', 'mlp'),
      name='embed_mixing',
    )(inputs)
    kernel = param_with_axes(
      'length_mixing',
      self.kernel_init,
      (self.max_length, self.max_length),
      jnp.float32,
      axes=('length', 'abspos_buckets'),
    ).astype(self.dtype)
    x = mix_tokens(kernel, x, segment_ids, positions)
    return with_sharding_constraint(x, ('batch', 'encoder_length', 'embed'))
