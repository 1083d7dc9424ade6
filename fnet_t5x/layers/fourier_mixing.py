"""The Fourier token-mixing sublayer of FNet (2105.03824), and Hartley's."""

import flax.linen as nn
from flax.linen.partitioning import (
  logical_to_mesh_axes,
  with_sharding_constraint,
)
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from fnet_t5x.fourier.mixing import MixingPlan, mix


class FourierMixing(nn.Module):
  """Token mixing by the real part of a 2-D Fourier transform; no parameters.

  With the plan of a Hartley transform, it is that transform.

  Attributes:
    embed_name: logical name of the features' axis, 'mlp' inside a block.
  """

  embed_name: str = 'embed'

  @nn.compact
  def __call__(
    self, inputs: Float[Array, 'batch length embed'], plan: MixingPlan
  ) -> Float[Array, 'batch length embed']:
    """Mixes tokens by `plan`, which all layers of an encoder share."""
    axes = ('batch', 'encoder_length', self.embed_name)
    _, length_axis, embed_axis = logical_to_mesh_axes(axes)
    x = mix(inputs, plan, length_axis, embed_axis)
    x = with_sharding_constraint(x, axes)
    # Named for remat policies, which know products with weights but no FFT.
    return checkpoint_name(x, 'mixing')
