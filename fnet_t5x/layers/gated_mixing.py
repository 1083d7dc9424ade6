"""A gated block around any token mixing, with a short convolution before it.

    value, gate = x W_value, x W_gate              each of width embed
    value = silu(convolution(value))
    value = value + mix(value)
    y     = (norm(value) * silu(gate)) W_o

with a depthwise convolution over few tokens, and T5's norm, by the root mean
square. It is the block in which Hydra compares its mixers (Hwang et al. 2024,
arXiv 2407.09941, table 2), after Mamba-2's (Dao and Gu 2024, arXiv 2405.21060).
Without a mixing it is the control of such comparisons. Cost per row: 6 N D^2,
and the mixing's; the convolution is 2 width N D, and no matrix product.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.partitioning import param_with_axes, with_sharding_constraint
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float, Int

from fnet_t5x.layers.dense import DenseGeneral
from fnet_t5x.layers.normalization import LayerNorm

Activations = Float[Array, 'batch length embed']

_INNER = ('batch', 'encoder_length', 'mlp')


def convolve_tokens(
  x: Activations,
  kernel: Float[Array, 'width embed'],
  segment_ids: Int[Array, 'batch length'],
) -> Activations:
  """Convolves each feature over the tokens of each example, centered.

  y_n = sum over k of kernel[k + r] x_{n + k}, for |k| <= r = width // 2 and
  tokens n + k of n's own example. On padding y is 0. Plain equivalent for a row
  without padding: `np.convolve(x[:, d], kernel[::-1, d], 'same')`.

  Shifted sums fuse into one loop, which a grouped convolution does not on CPU.

  Args:
    x: activations.
    kernel: one filter per feature, of odd width.
    segment_ids: 0 on padding, elsewhere one id per example.
  """
  length, radius = x.shape[1], kernel.shape[0] // 2
  # 0 in place of ids beyond the row: no token has it.
  ids = jnp.pad(segment_ids, ((0, 0), (radius, radius)))
  x = jnp.pad(x, ((0, 0), (radius, radius), (0, 0)))
  total = 0
  for k in range(kernel.shape[0]):
    same = (ids[:, k : k + length] == segment_ids) & (segment_ids > 0)
    shifted = x[:, k : k + length]
    total += jnp.where(same[:, :, None], shifted, 0) * jnp.broadcast_to(
      kernel[k], shifted.shape
    )
  return total


class GatedMixing(nn.Module):
  """A gated block around a token mixing; see the module.

  Attributes:
    width: of the convolution, in tokens; odd.
    dtype: of the computation.
    kernel_init: initializer of the projections.
  """

  width: int = 5
  dtype: jnp.dtype = jnp.float32
  kernel_init: Initializer = nn.initializers.variance_scaling(
    1.0, 'fan_in', 'truncated_normal'
  )

  @nn.compact
  def __call__(
    self,
    inputs: Activations,
    segment_ids: Int[Array, 'batch length'],
    mix: Callable[[Activations, Activations], Activations] | None = None,
  ) -> Activations:
    """Applies the block.

    Args:
      inputs: activations.
      segment_ids: 0 on padding, elsewhere one id per example; tokens of an
        example follow one another.
      mix: function of the value and of `inputs`, which may create modules; None
        for the block without a mixing.
    """
    embed = inputs.shape[-1]
    # Not sharded along the rows, as XLA would infer for them, and then for all
    # that is made from them: they are small.
    segment_ids = with_sharding_constraint(segment_ids, ('batch', 'length'))

    def project(name, features, x, axes):
      return DenseGeneral(
        features,
        dtype=self.dtype,
        kernel_init=self.kernel_init,
        kernel_axes=axes,
        name=name,
      )(x)

    value, gate = (
      with_sharding_constraint(
        project(name, embed, inputs, ('embed', 'mlp')), _INNER
      )
      for name in ('wi_value', 'wi_gate')
    )
    kernel = param_with_axes(
      'convolution',
      # Keeps the mean square of white noise, as other initializers do.
      nn.initializers.normal(self.width**-0.5),
      (self.width, embed),
      jnp.float32,
      axes=('relpos_buckets', 'mlp'),
    )
    value = convolve_tokens(value, kernel.astype(self.dtype), segment_ids)
    value = nn.silu(value)
    if mix is not None:
      value += with_sharding_constraint(mix(value, inputs), _INNER)
    value = LayerNorm(dtype=self.dtype, name='norm')(value)
    value = with_sharding_constraint(value * nn.silu(gate), _INNER)
    x = project('wo', embed, value, ('mlp', 'embed'))
    return with_sharding_constraint(x, ('batch', 'encoder_length', 'embed'))
