"""T5's decoder, also used by the hybrids."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fnet_t5x.layers.dense import DenseGeneral
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


class DecoderLayer(nn.Module):
  """Pre-norm causal self-attention, cross-attention and feed-forward block."""

  config: T5Config

  @nn.compact
  def __call__(
    self,
    inputs: Activations,
    encoded: Float[Array, 'batch encoder_length embed'],
    decoder_mask: Mask | None = None,
    encoder_decoder_mask: Mask | None = None,
    decoder_bias: Float[Array, '#batch heads q_length kv_length'] | None = None,
    deterministic: bool = False,
    decode: bool = False,
    prefill_lengths: Int[Array, ' batch'] | None = None,
  ) -> Activations:
    """Applies the layer; `Transformer.decode` describes the cache."""
    cfg = self.config
    caching = {'decode': decode, 'prefill_lengths': prefill_lengths}
    if not cfg.shares_relpos_bias:
      decoder_bias = decoder_biases(
        cfg, inputs.shape[1], decode, prefill_lengths
      )
    x = LayerNorm(dtype=cfg.dtype, name='pre_self_attention_layer_norm')(inputs)
    x = attention(cfg, 'self_attention')(
      x, x, decoder_mask, decoder_bias, deterministic=deterministic, **caching
    )
    x = inputs + dropout(cfg)(x, deterministic=deterministic)
    return attend_to_encoder(
      cfg, x, encoded, encoder_decoder_mask, deterministic, **caching
    )


def attend_to_encoder(
  config: T5Config,
  x: Activations,
  encoded: Float[Array, 'batch encoder_length embed'],
  mask: Mask | None,
  deterministic: bool,
  **caching: Any,
) -> Activations:
  """Applies cross-attention and the feed-forward block, a layer's second half.

  Call it in a layer's compact method, which then has their parameters.

  Args:
    config: the decoder's.
    x: the residual sum after self-attention, or another mixing.
    encoded: the encoder's output.
    mask: non-zero where a target may see an input.
    deterministic: whether to skip dropout.
    **caching: `decode` and `prefill_lengths`; `Transformer.decode` describes
      the cache.
  """
  y = LayerNorm(dtype=config.dtype, name='pre_cross_attention_layer_norm')(x)
  y = attention(config, 'encoder_decoder_attention', cross_attention=True)(
    y, encoded, mask, deterministic=deterministic, **caching
  )
  y = x + dropout(config)(y, deterministic=deterministic)

  z = LayerNorm(dtype=config.dtype, name='pre_mlp_layer_norm')(y)
  z = feed_forward(config)(z, deterministic=deterministic)
  return y + dropout(config)(z, deterministic=deterministic)


def decoder_biases(
  config: T5Config,
  length: int,
  decode: bool,
  prefill_lengths: Int[Array, ' batch'] | None,
) -> Float[Array, '#batch heads q_length kv_length']:
  """Returns the decoder's relative position biases; one query's in a step."""
  return relative_position_biases(config)(
    length, length, False, decode=decode, prefill_lengths=prefill_lengths
  )


class Decoder(nn.Module):
  """A stack of decoder layers, and the output layer."""

  config: T5Config
  shared_embedding: nn.Module

  def setup(self):
    if not self.config.logits_via_embedding:
      self.logits_dense = DenseGeneral(
        self.config.vocab_size,
        dtype=jnp.float32,  # The loss needs more than bfloat16's 8 bits.
        kernel_axes=('embed', 'vocab'),
      )

  def output_kernel(self) -> Float[Array, 'embed vocab']:
    """Returns the output layer's kernel, in float32."""
    if self.config.logits_via_embedding:
      # Embeddings have unit variance, an output kernel a variance of 1 / embed.
      return self.shared_embedding.embedding.T / jnp.sqrt(self.config.emb_dim)
    return self.logits_dense.get_variable('params', 'kernel')

  @nn.compact
  def __call__(
    self,
    encoded: Float[Array, 'batch encoder_length embed'],
    decoder_input_tokens: Tokens,
    decoder_mask: Mask | None = None,
    encoder_decoder_mask: Mask | None = None,
    decoder_segment_ids: Tokens | None = None,
    decoder_positions: Tokens | None = None,
    deterministic: bool = False,
    decode: bool = False,
    prefill_lengths: Int[Array, ' batch'] | None = None,
    return_hidden: bool = False,
  ) -> Float[Array, 'batch length vocab'] | Activations:
    """Returns next-token logits; see `Transformer.decode`."""
    cfg = self.config
    x = self.shared_embedding(decoder_input_tokens.astype(jnp.int32))
    x = dropout(cfg)(x, deterministic=deterministic).astype(cfg.dtype)
    x = self.apply_layers(
      x,
      encoded,
      decoder_mask,
      encoder_decoder_mask,
      decoder_segment_ids,
      decoder_positions,
      deterministic,
      decode,
      prefill_lengths,
    )
    x = LayerNorm(dtype=cfg.dtype, name='decoder_norm')(x)
    x = dropout(cfg)(x, deterministic=deterministic)
    if return_hidden:
      return x
    if cfg.logits_via_embedding:
      return self.shared_embedding.attend(x) / jnp.sqrt(cfg.emb_dim)
    return self.logits_dense(x)

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
    """Applies all layers; subclasses with other layers override this.

    Segment ids and positions are for those: here, masks and biases say it all.
    """
    del decoder_segment_ids, decoder_positions
    return layer_stack.apply_layers(
      self,
      DecoderLayer,
      {'config': self.config},
      self.config.num_decoder_layers,
      x,
      encoded,
      decoder_mask,
      encoder_decoder_mask,
      self.shared_biases(x.shape[1], decode, prefill_lengths),
      deterministic,
      decode,
      prefill_lengths,
      stack='decoder',
    )

  def shared_biases(
    self,
    length: int,
    decode: bool,
    prefill_lengths: Int[Array, ' batch'] | None,
  ) -> Float[Array, '#batch heads q_length kv_length'] | None:
    """Returns the biases that all layers share; None if each has its own."""
    if not self.config.shares_relpos_bias:
      return None
    return decoder_biases(self.config, length, decode, prefill_lengths)
