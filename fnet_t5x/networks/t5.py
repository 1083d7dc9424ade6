"""T5 1.1: the baseline encoder-decoder, and the decoder of our hybrids.

Parameter names, shapes, logical axes and initial values are those of T5X's
`t5x.examples.t5.network`, so that public checkpoints load and runs can be
compared. Decoding differs: keys and values of cross-attention are computed once
per generation, and the self-attention cache is updated in place.
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
    cfg = self.decoder_config
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
    self.decoder = self.make_decoder()

  @property
  def decoder_config(self) -> T5Config:
    """Configuration of the decoder, and of the embedding that it reads."""
    return self.config

  @property
  def scan_layers(self) -> bool:
    """Whether axis 1 of the cache is the batch; T5X's decoding reads this."""
    return self.decoder_config.scan_layers

  def make_encoder(self) -> nn.Module:
    """Returns the encoder; subclasses with another encoder override this."""
    return Encoder(self.config, self.shared_embedding)

  def make_decoder(self) -> nn.Module:
    """Returns the decoder; subclasses with another one override this."""
    return Decoder(self.decoder_config, self.shared_embedding)

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
      encoder_segment_ids: id of the packed example that each token belongs to.
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

  def attended(
    self, encoder_input_tokens: Tokens, encoder_segment_ids: Tokens | None
  ) -> tuple[Tokens, Tokens | None]:
    """Returns tokens and segment ids of what the decoder attends to.

    Subclasses whose encoder returns other rows than it reads override this. Of
    the tokens, only where they are 0 matters.
    """
    return encoder_input_tokens, encoder_segment_ids

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
    """Returns next-token logits, for all positions or for one decoding step.

    Generation, with the 'cache' collection mutable, is `__call__` with
    `decode=True` on inputs of the full length, which creates the cache; this
    method with `prefill=True` on the prompts, which fills it and projects
    `encoded` for all later steps; then this method with `decode=True` on one
    token per row. Without the prefill, every step projects `encoded` again.

    Args:
      encoded: the encoded inputs. Steps after a prefill do not read them.
      encoder_input_tokens: the inputs; 0 is padding.
      decoder_input_tokens: the targets shifted by one, the prompts, or the
        last token of each row.
      decoder_target_tokens: the targets; 0 is padding. With a cache, only
        their shape matters.
      encoder_segment_ids: id of the packed example of each input token.
      decoder_segment_ids: id of the packed example of each target token.
      decoder_positions: position of each target token in its packed example.
        Attention reads none: its relative biases need none.
      enable_dropout: whether to apply dropout.
      decode: whether to create or advance the cache.
      max_decode_length: unused; the cache sets the length.
      prefill: whether to fill the cache with prompts.
      prefill_lengths: prompt length of each row, in tokens, which is also the
        position of its first step.
      return_hidden: whether to skip the output layer.

    Returns:
      The logits; with `return_hidden`, the input of the output layer.

    Raises:
      ValueError: for packed inputs with a cache, `prefill` with `decode`, or
        `prefill` without lengths.
    """
    del max_decode_length
    dtype = self.decoder_config.dtype
    encoder_input_tokens, encoder_segment_ids = self.attended(
      encoder_input_tokens, encoder_segment_ids
    )
    inputs_real = encoder_input_tokens > 0
    if decode or prefill:
      if encoder_segment_ids is not None:
        raise ValueError(
          'decode: packed inputs (encoder_segment_ids) cannot be decoded with '
          'a cache; give each example its own row'
        )
      if decode and prefill:
        raise ValueError(
          'decode: prefill=True and decode=True exclude each other; make two '
          'calls'
        )
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
      decoder_segment_ids=decoder_segment_ids,
      decoder_positions=decoder_positions,
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
    """Encodes the inputs and returns next-token logits for the targets.

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
    """Returns the output layer's kernel: logits are `hidden @ kernel`."""
    return self.decoder.output_kernel()
