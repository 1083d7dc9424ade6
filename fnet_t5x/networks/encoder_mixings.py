"""Mixings of the hybrid's encoder by name, other than attention.

Each is a function of the configuration, the activations, and `MixingInputs`,
which creates the modules of one layer.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from flax import struct
from jaxtyping import Array, Float

from fnet_t5x.fourier.mixing import MixingPlan
from fnet_t5x.layers.fourier_mixing import FourierMixing
from fnet_t5x.layers.gated_mixing import GatedMixing
from fnet_t5x.layers.linear_mixing import LinearMixing
from fnet_t5x.layers.toeplitz_mixing import ToeplitzMixing, TokenWeights
from fnet_t5x.networks import t5_config

Mixing = Literal[
  'fourier',
  'hartley',
  'toeplitz',
  'fourier_gated',
  'hartley_gated',
  'toeplitz_gated',
  'toeplitz_gated_dependent',
  'convolution',
  'attention',
  'linear',
  'none',
]

Tokens = t5_config.Tokens
Activations = t5_config.Activations
# The configuration is an `FNetT5Config`, whose module imports this one.
MixingFunction = Callable[[Any, Activations, 'MixingInputs'], Activations]


@struct.dataclass
class MixingInputs:
  """Per-batch inputs of token mixing, computed once for all layers.

  Attributes:
    segment_ids: id of the example that each token belongs to; 0 on padding.
    positions: of each token in its example; None if rows are not packed.
    mask: attention mask; None without attention layers.
    bias: attention bias; None without attention layers, or if each has its own.
    fourier_plan: plan of the Fourier transform; None without Fourier layers.
    hartley_plan: plan of the Hartley transform; None without Hartley layers.
  """

  segment_ids: Tokens
  positions: Tokens | None
  mask: t5_config.Mask | None
  bias: Float[Array, '1 heads length length'] | None
  fourier_plan: MixingPlan | None
  hartley_plan: MixingPlan | None

  @property
  def packed(self) -> bool:
    """Whether rows hold several examples."""
    return self.positions is not None


def _fourier(cfg, x, inputs):
  return FourierMixing(name='fourier')(x, inputs.fourier_plan)


def _hartley(cfg, x, inputs):
  return FourierMixing(name='hartley')(x, inputs.hartley_plan)


def _linear(cfg, x, inputs):
  return LinearMixing(cfg.max_encoder_length, cfg.dtype, name='linear')(
    x, inputs.segment_ids, inputs.positions
  )


def _toeplitz_module(cfg, project):
  return ToeplitzMixing(
    num_heads=cfg.num_heads,
    max_length=cfg.max_encoder_length,
    filter=cfg.toeplitz_filter,
    method=cfg.toeplitz_method,
    dtype=cfg.dtype,
    project=project,
    name='toeplitz',
  )


def _toeplitz(cfg, x, inputs):
  return _toeplitz_module(cfg, project=True)(
    x, inputs.segment_ids, inputs.packed
  )


def _gated(cfg, x, inputs, mix=None):
  return GatedMixing(cfg.gated_convolution_width, cfg.dtype, name='gated')(
    x, inputs.segment_ids, mix
  )


def _fourier_gated(cfg, x, inputs):
  def mix(value, _):
    module = FourierMixing(embed_name='mlp', name='fourier')
    return module(value, inputs.fourier_plan)

  return _gated(cfg, x, inputs, mix)


def _hartley_gated(cfg, x, inputs):
  def mix(value, _):
    module = FourierMixing(embed_name='mlp', name='hartley')
    return module(value, inputs.hartley_plan)

  return _gated(cfg, x, inputs, mix)


def _toeplitz_gated(cfg, x, inputs):
  def mix(value, _):
    module = _toeplitz_module(cfg, project=False)
    return module(value, inputs.segment_ids, inputs.packed)

  return _gated(cfg, x, inputs, mix)


def _toeplitz_gated_dependent(cfg, x, inputs):
  def mix(value, block_inputs):
    weights = TokenWeights(cfg.num_heads, cfg.dtype, name='token_weights')
    module = _toeplitz_module(cfg, project=False)
    return module(
      value, inputs.segment_ids, inputs.packed, weights(block_inputs)
    )

  return _gated(cfg, x, inputs, mix)


# Of all layers but those of attention, which are T5's, and 'none'.
MIXINGS: Mapping[str, MixingFunction] = {
  'fourier': _fourier,
  'hartley': _hartley,
  'toeplitz': _toeplitz,
  'fourier_gated': _fourier_gated,
  'hartley_gated': _hartley_gated,
  'toeplitz_gated': _toeplitz_gated,
  'toeplitz_gated_dependent': _toeplitz_gated_dependent,
  'convolution': _gated,
  'linear': _linear,
}
