"""T5's encoder."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fnet_t5x.layers import masks
from fnet_t5x.layers.normalization import LayerNorm
from fnet_t5x.networks import layer_stack
from fnet_t5x.networks.t5_config import (
  Activations,
  Mask,
  T5Config,
  Tokens,
  attention,
  dropout,
  feed_forward,
  relative_position_biases,
)


def encoder_attention_mask(
  encoder_input_tokens: Tokens,
  encoder_segment_ids: Tokens | None,
  dtype: jnp.dtype,
) -> Mask:
  """Masks padding, and packed examples from one another."""
  real = encoder_input_tokens > 0
  mask = masks.make_attention_mask(real, real, dtype=dtype)
  if encoder_segment_ids is None:
    lengths = masks.lengths_of(encoder_input_tokens)
    return masks.LengthMask(mask, lengths, causal=False)
  same_segment = masks.make_attention_mask(
    encoder_segment_ids, encoder_segment_ids, jnp.equal, dtype=dtype
  )
  return masks.combine_masks(mask, same_segment, dtype=dtype)


class EncoderLayer(nn.Module):
  """Pre-norm self-attention, then a pre-norm feed-forward block."""

  config: T5Config

  @nn.compact
  def __call__(
    self,
    inputs: Activations,
    encoder_mask: Mask | None = None,
    encoder_bias: Float[Array, '1 heads length length'] | None = None,
    deterministic: bool = False,
  ) -> Activations:
    """Applies the layer."""
    cfg = self.config
    if not cfg.shares_relpos_bias:
      length = inputs.shape[1]
      encoder_bias = relative_position_biases(cfg)(length, length, True)
    x = LayerNorm(dtype=cfg.dtype, name='pre_attention_layer_norm')(inputs)
    x = attention(cfg, 'attention')(
      x, x, encoder_mask, encoder_bias, deterministic=deterministic
    )
    x = inputs + dropout(cfg)(x, deterministic=deterministic)

    y = LayerNorm(dtype=cfg.dtype, name='pre_mlp_layer_norm')(x)
    y = feed_forward(cfg, 'encoder_length')(y, deterministic=deterministic)
    return x + dropout(cfg)(y, deterministic=deterministic)


class Encoder(nn.Module):
  """A stack of encoder layers."""

  config: T5Config
  shared_embedding: nn.Module

  @nn.compact
  def __call__(
    self,
    encoder_input_tokens: Tokens,
    encoder_segment_ids: Tokens | None = None,
    encoder_positions: Tokens | None = None,
    deterministic: bool = False,
  ) -> Activations:
    """Encodes each row.

    Args:
      encoder_input_tokens: the inputs; 0 is padding.
      encoder_segment_ids: id of the packed example that each token belongs to.
      encoder_positions: unused; relative biases need none.
      deterministic: whether to skip dropout.

    Returns:
      The encoded inputs.
    """
    del encoder_positions
    cfg = self.config
    mask = encoder_attention_mask(
      encoder_input_tokens, encoder_segment_ids, cfg.dtype
    )
    bias = None
    if cfg.shares_relpos_bias:
      length = encoder_input_tokens.shape[-1]
      bias = relative_position_biases(cfg)(length, length, True)
    x = self.shared_embedding(encoder_input_tokens.astype(jnp.int32))
    x = dropout(cfg)(x, deterministic=deterministic).astype(cfg.dtype)
    x = layer_stack.apply_layers(
      self,
      EncoderLayer,
      {'config': cfg},
      cfg.num_encoder_layers,
      x,
      mask,
      bias,
      deterministic,
      stack='encoder',
      length_axis='encoder_length',
    )
    x = LayerNorm(dtype=cfg.dtype, name='encoder_norm')(x)
    return nn.Dropout(rate=cfg.dropout_rate)(x, deterministic=deterministic)
