"""GPT-2 (Radford et al. 2019): a decoder-only Transformer.

Call signature and cache are those of T5X's `DecoderOnlyModel`. Query, key and
value have separate kernels, where the published files fuse them: the same map.
Layers may have other causal mixings in place of attention
(`decoder_mixings.py`).
"""

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.partitioning import param_with_axes, with_sharding_constraint
from jaxtyping import Array, Float, Int

from fnet_t5x.layers import masks
from fnet_t5x.layers.attention import MultiHeadDotProductAttention
from fnet_t5x.layers.dense import DenseGeneral
from fnet_t5x.layers.embedding import Embed
from fnet_t5x.layers.feature_scale import FeatureScale
from fnet_t5x.layers.normalization import CenteredLayerNorm
from fnet_t5x.networks import layer_stack
from fnet_t5x.networks.decoder_mixings import (
  CausalInputs,
  DecoderMixing,
  causal_inputs,
  mix,
)
from fnet_t5x.networks.gpt2_config import INIT, GPT2Config
from fnet_t5x.networks.t5_config import Activations, Mask, Tokens

__all__ = ['GPT2', 'GPT2Config']


def _layer_norm(config: GPT2Config, name: str) -> CenteredLayerNorm:
  return CenteredLayerNorm(epsilon=1e-5, dtype=config.dtype, name=name)


class PositionEmbedder(nn.Module):
  """A learned vector for each position, counted in the cache while decoding.

  The counter is called `cache_index`, because T5X's decoding expands leaves of
  that name to beams as this module needs it.
  """

  config: GPT2Config

  @nn.compact
  def __call__(
    self,
    length: int,
    positions: Tokens | None = None,
    decode: bool = False,
    prefill_lengths: Int[Array, ' batch'] | None = None,
  ) -> Float[Array, 'rows length embed']:
    """Returns the vectors of `positions`, by default 0, 1, ....

    Raises:
      ValueError: if rows, or the cache to be created, exceed the table.
    """
    cfg = self.config
    if length > cfg.max_length:
      raise ValueError(
        f'decoder inputs of {length} tokens: learned positions are limited to '
        f'max_length={cfg.max_length}; shorten the feature lengths '
        '(TASK_FEATURE_LENGTHS) or raise max_length (MAX_LENGTH)'
      )
    table = param_with_axes(
      'embedding',
      INIT,
      (cfg.max_length, cfg.emb_dim),
      jnp.float32,
      axes=('abspos_buckets', 'embed'),
    ).astype(cfg.dtype)
    if prefill_lengths is not None:
      index = prefill_lengths.astype(jnp.int32)
      self.put_variable('cache', 'cache_index', index)
    elif decode and self.has_variable('cache', 'cache_index'):
      index = self.get_variable('cache', 'cache_index')
      self.put_variable('cache', 'cache_index', index + 1)
      return jnp.take(table, index.reshape(-1, 1), 0, mode='clip')
    elif decode:
      self.put_variable('cache', 'cache_index', jnp.array(0, jnp.int32))
    if positions is None:
      return table[None, :length]
    return jnp.take(table, positions.astype(jnp.int32), 0, mode='clip')


class FeedForward(nn.Module):
  """Two linear maps with a tanh-approximated GELU in between."""

  config: GPT2Config

  @nn.compact
  def __call__(self, x: Activations) -> Activations:
    """Applies the block to each token independently."""
    cfg = self.config
    x = DenseGeneral(
      cfg.feed_forward_width,
      dtype=cfg.dtype,
      kernel_init=INIT,
      kernel_axes=('embed', 'mlp'),
      use_bias=True,
      name='wi',
    )(x)
    x = nn.gelu(x, approximate=True)
    x = with_sharding_constraint(x, ('batch', 'length', 'mlp'))
    return DenseGeneral(
      cfg.emb_dim,
      dtype=cfg.dtype,
      kernel_init=cfg.residual_init,
      kernel_axes=('mlp', 'embed'),
      use_bias=True,
      name='wo',
    )(x)


class DecoderLayer(nn.Module):
  """Causal mixing and feed-forward block, each after a layer norm.

  With mixing 'none' the layer is the feed-forward block alone.
  """

  config: GPT2Config
  mixing: DecoderMixing = 'attention'

  @nn.compact
  def __call__(
    self,
    x: Activations,
    mask: Mask | None = None,
    mixing_inputs: CausalInputs | None = None,
    deterministic: bool = False,
    decode: bool = False,
    prefill_lengths: Int[Array, ' batch'] | None = None,
  ) -> Activations:
    """Applies the layer; `GPT2.__call__` describes the cache."""
    cfg = self.config
    caching = {'decode': decode, 'prefill_lengths': prefill_lengths}
    if self.mixing == 'attention':
      y = _layer_norm(cfg, 'pre_self_attention_layer_norm')(x)
      y = self._attend(y, mask, deterministic=deterministic, **caching)
    elif self.mixing != 'none':
      y = _layer_norm(cfg, 'pre_mixing_layer_norm')(x)
      y = mix(
        cfg,
        self.mixing,
        y,
        mixing_inputs,
        kernel_init=cfg.residual_init,
        **caching,
      )
      if self.mixing == 'fourier':  # It has no projection.
        y = FeatureScale(cfg.residual_scale, cfg.dtype, name='mixing_scale')(y)
    if self.mixing != 'none':
      x = x + nn.Dropout(cfg.dropout_rate)(y, deterministic=deterministic)
    y = _layer_norm(cfg, 'pre_mlp_layer_norm')(x)
    y = FeedForward(cfg, name='mlp')(y)
    return x + nn.Dropout(cfg.dropout_rate)(y, deterministic=deterministic)

  def _attend(self, x, mask, **options):
    cfg = self.config
    return MultiHeadDotProductAttention(
      num_heads=cfg.num_heads,
      head_dim=cfg.emb_dim // cfg.num_heads,
      dtype=cfg.dtype,
      dropout_rate=cfg.dropout_rate,
      kernel_init=INIT,
      out_kernel_init=cfg.residual_init,
      implementation=cfg.attention_implementation,
      use_bias=True,
      divide_query=True,
      broadcast_dropout=False,
      name='self_attention',
    )(x, x, mask, **options)


class Decoder(nn.Module):
  """Position embeddings, layers, and the final layer norm."""

  config: GPT2Config

  @nn.compact
  def __call__(
    self,
    x: Activations,
    mask: Mask | None = None,
    segment_ids: Tokens | None = None,
    positions: Tokens | None = None,
    deterministic: bool = False,
    decode: bool = False,
    prefill_lengths: Int[Array, ' batch'] | None = None,
  ) -> Activations:
    """Returns the input of the output layer."""
    cfg = self.config
    embedded = PositionEmbedder(cfg, name='position_embedder')(
      x.shape[1], positions, decode, prefill_lengths
    )
    x = x + jnp.broadcast_to(embedded, x.shape)
    x = nn.Dropout(cfg.dropout_rate)(x, deterministic=deterministic)
    mixing_inputs = None
    if not set(cfg.decoder_layer_mixing) <= {'attention'}:
      mixing_inputs = causal_inputs(cfg, x, segment_ids, positions)
    first = 0
    for stack, mixing, count in layer_stack.runs(
      cfg.decoder_layer_mixing, 'decoder'
    ):
      x = layer_stack.apply_layers(
        self,
        DecoderLayer,
        {'config': cfg, 'mixing': mixing},
        count,
        x,
        mask,
        mixing_inputs,
        deterministic,
        decode,
        prefill_lengths,
        stack=stack,
        first=first,
      )
      first += count
    return _layer_norm(cfg, 'decoder_norm')(x)


class GPT2(nn.Module):
  """GPT-2 with a tied output layer; causal, or with prefix-LM attention."""

  config: GPT2Config

  def setup(self):
    cfg = self.config
    self.token_embedder = Embed(
      num_embeddings=cfg.vocab_size,
      features=cfg.emb_dim,
      dtype=cfg.dtype,
      attend_dtype=jnp.float32,  # logits
      embedding_init=INIT,
      one_hot=cfg.one_hot_embedding,
    )
    self.decoder = Decoder(cfg)

  @property
  def scan_layers(self) -> bool:
    """Whether axis 1 of the cache is the batch; T5X's decoding reads this."""
    return self.config.scan_layers

  def __call__(
    self,
    decoder_input_tokens: Tokens,
    decoder_target_tokens: Tokens,
    decoder_segment_ids: Tokens | None = None,
    decoder_positions: Tokens | None = None,
    decoder_causal_attention: Tokens | None = None,
    *,
    enable_dropout: bool = True,
    decode: bool = False,
    max_decode_length: int | None = None,
    prefill: bool = False,
    prefill_lengths: Int[Array, ' batch'] | None = None,
    return_hidden: bool = False,
  ) -> Float[Array, 'batch length vocab'] | Activations:
    """Returns next-token logits, for all positions or for one decoding step.

    Generation, with the 'cache' collection mutable, is a call with
    `decode=True` on inputs of the full length, which creates the cache; a call
    with `prefill=True` on the prompts, which fills it in one pass; then calls
    with `decode=True` on one token per row.

    Args:
      decoder_input_tokens: the targets shifted by one, the prompts, or the
        last token of each row.
      decoder_target_tokens: the targets; 0 is padding. In a prefill, non-zero
        on the prompts; in a step, only the shape matters.
      decoder_segment_ids: id of the packed example of each token.
      decoder_positions: position of each token in its packed example.
      decoder_causal_attention: 1 on positions that attend to one another in
        both directions, a prefix; 0 elsewhere. None is causal throughout. Other
        mixings are causal in a prefix, too.
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
      ValueError: for packed inputs with a cache, `prefill` with `decode`,
        `prefill` without lengths, more tokens than positions, or
        `decoder_causal_attention` without a layer that attends.
    """
    del max_decode_length
    cfg = self.config
    if decode or prefill:
      if decoder_segment_ids is not None:
        raise ValueError(
          'decode: packed inputs (decoder_segment_ids) cannot be decoded with '
          'a cache; give each example its own row'
        )
      if decode and prefill:
        raise ValueError(
          'decode: prefill=True and decode=True exclude each other; make two '
          'calls'
        )
      if prefill and prefill_lengths is None:
        raise ValueError('decode: prefill=True needs prefill_lengths')
    if (
      decoder_causal_attention is not None
      and 'attention' not in cfg.decoder_layer_mixing
    ):
      raise ValueError(
        'decoder_causal_attention (PREFIX_ATTENTION) has no effect without an '
        'attention layer: the other mixings are causal; add one, or turn it off'
      )
    mask = None
    if not decode:
      mask = masks.make_decoder_mask(
        decoder_target_tokens,
        cfg.dtype,
        decoder_causal_attention=decoder_causal_attention,
        decoder_segment_ids=decoder_segment_ids,
      )
      if decoder_segment_ids is None and decoder_causal_attention is None:
        lengths = masks.lengths_of(decoder_target_tokens)
        mask = masks.LengthMask(mask, lengths, causal=True)
    x = self.decoder(
      self.token_embedder(decoder_input_tokens.astype(jnp.int32)),
      mask,
      decoder_segment_ids,
      None if decode else decoder_positions,
      deterministic=not enable_dropout,
      decode=decode,
      prefill_lengths=prefill_lengths if prefill else None,
    )
    return x if return_hidden else self.token_embedder.attend(x)

  def output_kernel(self) -> Float[Array, 'embed vocab']:
    """Returns the output layer's kernel: logits are `hidden @ kernel`."""
    return self.token_embedder.embedding.T
