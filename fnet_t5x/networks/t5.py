"""T5 1.1: the baseline encoder-decoder, and the decoder of our hybrids.

Parameter names, shapes, logical axes and initial values are those of T5X's
`t5x.examples.t5.network`, so that public checkpoints load and runs compare.
What differs is decoding: the keys and values of the encoder's output are
projected once a generation, and the decoder's own are written in place.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fnet_t5x.layers import masks
from fnet_t5x.layers.embedding import Embed
from fnet_t5x.networks.t5_config import Activations, T5Config, Tokens
from fnet_t5x.networks.t5_decoder import Decoder
from fnet_t5x.networks.t5_encoder import Encoder

__all__ = ['Decoder', 'Encoder', 'T5Config', 'Transformer']


class Transformer(nn.Module):
  """An encoder-decoder Transformer."""

  config: T5Config

  def setup(self):
    cfg = self.config
    self.shared_embedding = Embed(
      num_embeddings=cfg.vocab_size,
      features=cfg.emb_dim,
      dtype=cfg.dtype,
      attend_dtype=jnp.float32,  # logits
      embedding_init=nn.initializers.normal(stddev=1.0),
      one_hot=cfg.one_hot_embedding,
      name='token_embedder',
    )
    self.encoder = self.make_encoder()
    self.decoder = Decoder(cfg, self.shared_embedding)

  @property
  def scan_layers(self) -> bool:
    """Whether the cache has its batch as axis 1; T5X's decoding asks."""
    return self.config.scan_layers

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
    return_hidden: bool = False,
  ) -> Float[Array, 'batch length vocab'] | Activations:
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
      return_hidden: whether to leave the output layer out.

    Returns:
      The logits; with `return_hidden` what the output layer would take.

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
      if decoder_segment_ids is None:
        lengths = masks.lengths_of(decoder_target_tokens)
        decoder_mask = masks.LengthMask(decoder_mask, lengths, causal=True)
    cross_mask = masks.make_attention_mask(
      targets_real, inputs_real, dtype=dtype
    )
    if encoder_segment_ids is None:
      lengths = masks.lengths_of(encoder_input_tokens)
      cross_mask = masks.LengthMask(cross_mask, lengths, causal=False)
    else:
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
      return_hidden=return_hidden,
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
    return_hidden: bool = False,
  ) -> Float[Array, 'batch length vocab'] | Activations:
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
      return_hidden=return_hidden,
    )

  def output_kernel(self) -> Float[Array, 'embed vocab']:
    """The output layer as a matrix: logits are `hidden @ output_kernel()`."""
    return self.decoder.output_kernel()
