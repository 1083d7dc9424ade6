"""T5 1.1: the baseline encoder-decoder, and the decoder of our hybrids.

Parameter names, shapes, logical axes and initial values are those of T5X's
`t5x.examples.t5.network`, so that public checkpoints load and runs compare.
What differs is decoding: the keys and values of the encoder's output are
projected once a generation, and the decoder's own are written in place.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Num

from fnet_t5x.layers import masks
from fnet_t5x.layers.attention import MultiHeadDotProductAttention
from fnet_t5x.layers.dense import DenseGeneral
from fnet_t5x.layers.embedding import Embed
from fnet_t5x.layers.feed_forward import MlpBlock
from fnet_t5x.layers.normalization import LayerNorm
from fnet_t5x.layers.relative_position import RelativePositionBiases

Tokens = Int[Array, 'batch length']
Activations = Float[Array, 'batch length embed']
Mask = Num[Array, 'batch 1 q_length kv_length']


@struct.dataclass
class T5Config:
  """Sizes and choices of the network.

  Attributes:
    vocab_size: number of token ids.
    dtype: of activations; parameters are float32.
    emb_dim: the `embed` axis.
    num_heads: attention heads of each layer.
    num_encoder_layers: depth of the encoder.
    num_decoder_layers: depth of the decoder.
    head_dim: the `kv` axis.
    mlp_dim: the `mlp` axis.
    mlp_activations: see `feed_forward.MlpBlock`.
    dropout_rate: of every dropout.
    logits_via_embedding: whether the token embedding is the output layer too.
    float32_attention_logits: whether attention logits are float32 always.
    one_hot_embedding: see `embedding.Embed.one_hot`. None: a gather where JAX
      runs on CPU, else one-hot.
  """

  vocab_size: int
  dtype: jnp.dtype = jnp.float32
  emb_dim: int = 512
  num_heads: int = 8
  num_encoder_layers: int = 6
  num_decoder_layers: int = 6
  head_dim: int = 64
  mlp_dim: int = 2048
  mlp_activations: Sequence[str] = ('relu',)
  dropout_rate: float = 0.1
  logits_via_embedding: bool = False
  float32_attention_logits: bool = False
  one_hot_embedding: bool | None = None


def relative_position_biases(config: T5Config) -> RelativePositionBiases:
  """The biases of a stack, shared by its layers."""
  return RelativePositionBiases(
    num_buckets=32,
    max_distance=128,
    num_heads=config.num_heads,
    dtype=config.dtype,
    embedding_init=nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform'),
    name='relpos_bias',
  )


def attention(
  config: T5Config, name: str, cross_attention: bool = False
) -> MultiHeadDotProductAttention:
  """An attention module of the configured size."""
  return MultiHeadDotProductAttention(
    num_heads=config.num_heads,
    head_dim=config.head_dim,
    dtype=config.dtype,
    dropout_rate=config.dropout_rate,
    float32_logits=config.float32_attention_logits,
    cross_attention=cross_attention,
    name=name,
  )


def feed_forward(config: T5Config) -> MlpBlock:
  """A feed-forward block of the configured size."""
  return MlpBlock(
    intermediate_dim=config.mlp_dim,
    activations=config.mlp_activations,
    intermediate_dropout_rate=config.dropout_rate,
    dtype=config.dtype,
    name='mlp',
  )


def dropout(config: T5Config) -> nn.Dropout:
  """Dropout with one mask for all positions of a row."""
  return nn.Dropout(rate=config.dropout_rate, broadcast_dims=(-2,))


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
    x = LayerNorm(dtype=cfg.dtype, name='pre_attention_layer_norm')(inputs)
    x = attention(cfg, 'attention')(
      x, x, encoder_mask, encoder_bias, deterministic=deterministic
    )
    x = inputs + dropout(cfg)(x, deterministic=deterministic)

    y = LayerNorm(dtype=cfg.dtype, name='pre_mlp_layer_norm')(x)
    y = feed_forward(cfg)(y, deterministic=deterministic)
    return x + dropout(cfg)(y, deterministic=deterministic)


class DecoderLayer(nn.Module):
  """Causal self-attention, attention to the encoder, feed-forward block."""

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
    """Applies the layer; see `Transformer.decode` for the cache."""
    cfg = self.config
    caching = {
      'decode': decode,
      'prefill_lengths': prefill_lengths,
      'deterministic': deterministic,
    }
    x = LayerNorm(dtype=cfg.dtype, name='pre_self_attention_layer_norm')(inputs)
    x = attention(cfg, 'self_attention')(
      x, x, decoder_mask, decoder_bias, **caching
    )
    x = inputs + dropout(cfg)(x, deterministic=deterministic)

    y = LayerNorm(dtype=cfg.dtype, name='pre_cross_attention_layer_norm')(x)
    y = attention(cfg, 'encoder_decoder_attention', cross_attention=True)(
      y, encoded, encoder_decoder_mask, **caching
    )
    y = x + dropout(cfg)(y, deterministic=deterministic)

    z = LayerNorm(dtype=cfg.dtype, name='pre_mlp_layer_norm')(y)
    z = feed_forward(cfg)(z, deterministic=deterministic)
    return y + dropout(cfg)(z, deterministic=deterministic)


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
    """Encodes each row; `encoder_positions` are not used.

    Args:
      encoder_input_tokens: the inputs; 0 is padding.
      encoder_segment_ids: number of the packed example each token is from.
      encoder_positions: position of each token in its example.
      deterministic: whether to leave dropout out.

    Returns:
      The encoded inputs.
    """
    del encoder_positions  # relative biases need none
    cfg = self.config
    length = encoder_input_tokens.shape[-1]
    mask = encoder_attention_mask(
      encoder_input_tokens, encoder_segment_ids, cfg.dtype
    )
    bias = relative_position_biases(cfg)(length, length, True)
    x = self.shared_embedding(encoder_input_tokens.astype(jnp.int32))
    x = dropout(cfg)(x, deterministic=deterministic).astype(cfg.dtype)
    for i in range(cfg.num_encoder_layers):
      x = EncoderLayer(cfg, name=f'layers_{i}')(x, mask, bias, deterministic)
    x = LayerNorm(dtype=cfg.dtype, name='encoder_norm')(x)
    return nn.Dropout(rate=cfg.dropout_rate)(x, deterministic=deterministic)


class Decoder(nn.Module):
  """A stack of decoder layers, and the output layer."""

  config: T5Config
  shared_embedding: nn.Module

  @nn.compact
  def __call__(
    self,
    encoded: Float[Array, 'batch encoder_length embed'],
    decoder_input_tokens: Tokens,
    decoder_mask: Mask | None = None,
    encoder_decoder_mask: Mask | None = None,
    deterministic: bool = False,
    decode: bool = False,
    prefill_lengths: Int[Array, ' batch'] | None = None,
  ) -> Float[Array, 'batch length vocab']:
    """Gives next-token logits; see `Transformer.decode`."""
    cfg = self.config
    length = decoder_input_tokens.shape[-1]
    bias = relative_position_biases(cfg)(
      length, length, False, decode=decode, prefill_lengths=prefill_lengths
    )
    x = self.shared_embedding(decoder_input_tokens.astype(jnp.int32))
    x = dropout(cfg)(x, deterministic=deterministic).astype(cfg.dtype)
    for i in range(cfg.num_decoder_layers):
      x = DecoderLayer(cfg, name=f'layers_{i}')(
        x,
        encoded,
        decoder_mask,
        encoder_decoder_mask,
        bias,
        deterministic,
        decode,
        prefill_lengths,
      )
    x = LayerNorm(dtype=cfg.dtype, name='decoder_norm')(x)
    x = dropout(cfg)(x, deterministic=deterministic)
    if cfg.logits_via_embedding:
      # The table has entries of size 1, an output kernel 1 / sqrt(embed).
      return self.shared_embedding.attend(x) / jnp.sqrt(cfg.emb_dim)
    return DenseGeneral(
      cfg.vocab_size,
      dtype=jnp.float32,  # the loss needs more than bfloat16's 8 bits
      kernel_axes=('embed', 'vocab'),
      name='logits_dense',
    )(x)


def encoder_attention_mask(
  encoder_input_tokens: Tokens,
  encoder_segment_ids: Tokens | None,
  dtype: jnp.dtype,
) -> Mask:
  """Hides padding, and packed examples from one another."""
  real = encoder_input_tokens > 0
  mask = masks.make_attention_mask(real, real, dtype=dtype)
  if encoder_segment_ids is None:
    return mask
  same_segment = masks.make_attention_mask(
    encoder_segment_ids, encoder_segment_ids, jnp.equal, dtype=dtype
  )
  return masks.combine_masks(mask, same_segment, dtype=dtype)


class Transformer(nn.Module):
  """An encoder-decoder Transformer."""

  config: T5Config

  def setup(self):
    cfg = self.config
    one_hot = cfg.one_hot_embedding
    if one_hot is None:
      one_hot = jax.default_backend() != 'cpu'
    self.shared_embedding = Embed(
      num_embeddings=cfg.vocab_size,
      features=cfg.emb_dim,
      dtype=cfg.dtype,
      attend_dtype=jnp.float32,  # logits
      embedding_init=nn.initializers.normal(stddev=1.0),
      one_hot=one_hot,
      name='token_embedder',
    )
    self.encoder = self.make_encoder()
    self.decoder = Decoder(cfg, self.shared_embedding)

  def make_encoder(self) -> nn.Module:
    """The encoder; what a network with another encoder overrides."""
    return Encoder(self.config, self.shared_embedding)

  def encode(
    self,
    encoder_input_tokens: Tokens,
    encoder_segment_ids: Tokens | None = None,
    enable_dropout: bool = True,
    *,
    encoder_positions: Tokens | None = None,
  ) -> Activations:
    """Encodes the inputs.

    Args:
      encoder_input_tokens: the inputs; 0 is padding.
      encoder_segment_ids: number of the packed example each token is from.
      enable_dropout: whether to apply dropout.
      encoder_positions: position of each token in its example.

    Returns:
      The encoded inputs.
    """
    return self.encoder(
      encoder_input_tokens,
      encoder_segment_ids,
      encoder_positions,
      deterministic=not enable_dropout,
    )

  def decode(
    self,
    encoded: Float[Array, 'batch encoder_length embed'],
    encoder_input_tokens: Int[Array, 'batch encoder_length'],
    decoder_input_tokens: Tokens,
    decoder_target_tokens: Tokens,
    encoder_segment_ids: Int[Array, 'batch encoder_length'] | None = None,
    decoder_segment_ids: Tokens | None = None,
    decoder_positions: Tokens | None = None,
    enable_dropout: bool = True,
    decode: bool = False,
    max_decode_length: int | None = None,
    prefill: bool = False,
    prefill_lengths: Int[Array, ' batch'] | None = None,
  ) -> Float[Array, 'batch length vocab']:
    """Gives next-token logits, all positions at once or one a call.

    A generation takes, with the 'cache' collection mutable: `__call__` with
    `decode=True` on inputs of the full length, which makes the cache; this
    method with `prefill=True` on the prompts, which fills it and projects
    `encoded` for all steps to come; then this method with `decode=True` on one
    token a row. Without the prefill every step projects `encoded` again.

    Args:
      encoded: the encoded inputs. A step after a prefill does not read them.
      encoder_input_tokens: the inputs; 0 is padding.
      decoder_input_tokens: the targets shifted by one; the prompts; or the
        last token of each row.
      decoder_target_tokens: the targets; 0 is padding. Only their shape counts
        when a cache is used.
      encoder_segment_ids: number of the packed example each input is from.
      decoder_segment_ids: the same for targets.
      decoder_positions: not used, the decoder counts by itself.
      enable_dropout: whether to apply dropout.
      decode: whether to make or advance the cache.
      max_decode_length: not used, the cache has a length.
      prefill: whether to fill the cache with prompts.
      prefill_lengths: number of prompt positions in each row, also the
        position of the first step.

    Returns:
      The logits.

    Raises:
      ValueError: for packed inputs with a cache, `prefill` with `decode`, or
        `prefill` without lengths.
    """
    del decoder_positions, max_decode_length
    dtype = self.config.dtype
    inputs_real = encoder_input_tokens > 0
    if decode or prefill:
      if encoder_segment_ids is not None:
        raise ValueError(
          'decode: packed inputs (encoder_segment_ids) cannot be decoded with '
          'a cache; give each example a row of its own'
        )
      if decode and prefill:
        raise ValueError('decode: make the prefill and the steps two calls')
      if prefill and prefill_lengths is None:
        raise ValueError('decode: prefill=True needs prefill_lengths')
      targets_real = jnp.ones_like(decoder_target_tokens)
      decoder_mask = masks.make_causal_mask(targets_real) if prefill else None
    else:
      targets_real = decoder_target_tokens > 0
      decoder_mask = masks.make_decoder_mask(
        decoder_target_tokens, dtype, decoder_segment_ids=decoder_segment_ids
      )
    cross_mask = masks.make_attention_mask(
      targets_real, inputs_real, dtype=dtype
    )
    if encoder_segment_ids is not None:
      same_segment = masks.make_attention_mask(
        decoder_segment_ids, encoder_segment_ids, jnp.equal, dtype=dtype
      )
      cross_mask = masks.combine_masks(cross_mask, same_segment, dtype=dtype)
    return self.decoder(
      encoded,
      decoder_input_tokens,
      decoder_mask,
      cross_mask,
      deterministic=not enable_dropout,
      decode=decode,
      prefill_lengths=prefill_lengths if prefill else None,
    )

  def __call__(
    self,
    encoder_input_tokens: Int[Array, 'batch encoder_length'],
    decoder_input_tokens: Tokens,
    decoder_target_tokens: Tokens,
    encoder_segment_ids: Int[Array, 'batch encoder_length'] | None = None,
    decoder_segment_ids: Tokens | None = None,
    encoder_positions: Int[Array, 'batch encoder_length'] | None = None,
    decoder_positions: Tokens | None = None,
    *,
    enable_dropout: bool = True,
    decode: bool = False,
  ) -> Float[Array, 'batch length vocab']:
    """Encodes the inputs, and gives next-token logits for the targets.

    The arguments are those of `encode` and `decode`.
    """
    encoded = self.encode(
      encoder_input_tokens,
      encoder_segment_ids,
      enable_dropout,
      encoder_positions=encoder_positions,
    )
    return self.decode(
      encoded,
      encoder_input_tokens,
      decoder_input_tokens,
      decoder_target_tokens,
      encoder_segment_ids=encoder_segment_ids,
      decoder_segment_ids=decoder_segment_ids,
      decoder_positions=decoder_positions,
      enable_dropout=enable_dropout,
      decode=decode,
    )
