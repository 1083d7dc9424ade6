"""Causally masked Fourier mixing, with a cache for decoding.

`fourier/causal.py` has the formula, both ways to compute it, and their costs. A
decoding step reads the cache of inputs once, [batch, length, embed], which is
half of attention's; it then transforms the features of one token.
"""

import flax.linen as nn
from flax.linen.partitioning import (
  logical_to_mesh_axes,
  with_sharding_constraint,
)
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from fnet_t5x.fourier.causal import CausalPlan, causal_mix, causal_step
from fnet_t5x.fourier.methods import Method
from fnet_t5x.layers import cache

_AXES = ('batch', 'length', 'embed')


class CausalFourierMixing(nn.Module):
  """Fourier mixing of each token with those before it; no parameters.

  Attributes:
    max_length: the fixed length L of the transform; of the plan, too.
    method: 'fft', 'matmul' or 'auto'; in a step, for its features alone.
  """

  max_length: int
  method: Method = 'auto'

  @nn.compact
  def __call__(
    self,
    inputs: Float[Array, 'batch length embed'],
    plan: CausalPlan,
    *,
    decode: bool = False,
    prefill_lengths: Int[Array, ' batch'] | None = None,
  ) -> Float[Array, 'batch length embed']:
    """Mixes tokens by `plan`, or one token with those in the cache.

    Decoding makes the three kinds of calls of attention; see `layers.cache`.

    Args:
      inputs: activations.
      plan: of their batch, shared by all layers; a step does not read it.
      decode: whether to create or use the cache.
      prefill_lengths: prompt lengths; when given, the call is a prefill.

    Raises:
      ValueError: if the inputs do not fit the cache.
    """
    if prefill_lengths is not None:
      cache.write_prompts(self, prefill_lengths, cached_inputs=inputs)
    elif decode:
      appended = cache.append_token(self, cached_inputs=inputs)
      if appended is not None:
        leaves, index = appended
        return causal_step(
          leaves['cached_inputs'],
          index,
          max_length=self.max_length,
          method=self.method,
        )
    x = causal_mix(inputs, plan, logical_to_mesh_axes(_AXES)[2])
    x = with_sharding_constraint(x, _AXES)
    # Named for remat policies, which know products with weights but no FFT.
    return checkpoint_name(x, 'mixing')
