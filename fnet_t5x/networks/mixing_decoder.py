"""T5's decoder with other causal mixings in place of self-attention."""

import flax.linen as nn
from jaxtyping import Array, Float, Int

from fnet_t5x.layers.normalization import LayerNorm
from fnet_t5x.networks import layer_stack, t5_decoder
from fnet_t5x.networks.decoder_mixings import (
  CausalInputs,
  DecoderMixing,
  causal_inputs,
  mix,
)
from fnet_t5x.networks.t5_config import (
  Activations,
  Mask,
  T5Config,
  Tokens,
  dropout,
)


class MixingDecoderLayer(nn.Module):
  """Pre-norm causal mixing, cross-attention and feed-forward block.

  With mixing 'none' the layer begins with cross-attention.
  """

  config: T5Config
  mixing: DecoderMixing

  @nn.compact
  def __call__(
    self,
    inputs: Activations,
    encoded: Float[Array, 'batch encoder_length embed'],
    mixing_inputs: CausalInputs,
    encoder_decoder_mask: Mask | None = None,
    deterministic: bool = False,
    decode: bool = False,
    prefill_lengths: Int[Array, ' batch'] | None = None,
  ) -> Activations:
    """Applies the layer; `Transformer.decode` describes the cache."""
    cfg = self.config
    caching = {'decode': decode, 'prefill_lengths': prefill_lengths}
    x = inputs
    if self.mixing != 'none':
      x = LayerNorm(dtype=cfg.dtype, name='pre_mixing_layer_norm')(x)
      x = mix(cfg, self.mixing, x, mixing_inputs, **caching)
      x = inputs + dropout(cfg)(x, deterministic=deterministic)
    return t5_decoder.attend_to_encoder(
      cfg, x, encoded, encoder_decoder_mask, deterministic, **caching
    )


class MixingDecoder(t5_decoder.Decoder):
  """T5's decoder whose layers each have their own causal mixing.

  Relative position biases are where attention is. The configuration is an
  `FNetT5Config`.
  """

  def apply_layers(
    self,
    x: Activations,
    encoded: Float[Array, 'batch encoder_length embed'],
    decoder_mask: Mask | None,
    encoder_decoder_mask: Mask | None,
    decoder_segment_ids: Tokens | None,
    decoder_positions: Tokens | None,
    deterministic: bool,
    decode: bool,
    prefill_lengths: Int[Array, ' batch'] | None,
  ) -> Activations:
    """Applies all layers."""
    cfg = self.config
    names = cfg.decoder_layer_mixing
    mixing_inputs = causal_inputs(
      cfg, x, decoder_segment_ids, decoder_positions
    )
    bias = None
    if 'attention' in names:
      bias = self.shared_biases(x.shape[1], decode, prefill_lengths)
    caching = deterministic, decode, prefill_lengths
    first = 0
    for stack, mixing, count in layer_stack.runs(names, 'decoder'):
      if mixing == 'attention':
        layer, fields = t5_decoder.DecoderLayer, {'config': cfg}
        shared = (decoder_mask, encoder_decoder_mask, bias, *caching)
      else:
        layer, fields = MixingDecoderLayer, {'config': cfg, 'mixing': mixing}
        shared = (mixing_inputs, encoder_decoder_mask, *caching)
      x = layer_stack.apply_layers(
        self,
        layer,
        fields,
        count,
        x,
        encoded,
        *shared,
        stack=stack,
        first=first,
      )
      first += count
    return x
