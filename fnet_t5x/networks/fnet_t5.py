"""FNet-T5: an encoder with Fourier token mixing, and T5's decoder.

Each encoder layer has one of these mixings (`encoder_mixings.py`):

- `fourier`: FNet's (Lee-Thorp et al. 2021, 2105.03824);
- `hartley`: the same with the real Hartley transform;
- `toeplitz`: learned filters over relative positions, one per head;
- `fourier_gated`, `hartley_gated`, `toeplitz_gated`: these in a gated block
  with a short convolution; `toeplitz_gated_dependent`: with weights that depend
  on the tokens;
- `convolution`: that block without a mixing, the control of the three above;
- `attention`: T5's layer;
- `linear`: learned matrices;
- `none`: feed-forward only, the control.

The default is FNet-Hybrid: Fourier layers, with attention in the last two. The
decoder's layers may have causal mixings in place of self-attention
(`decoder_mixings.py`).
"""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from flax import struct

from fnet_t5x import number_ranges
from fnet_t5x.choices import check_choice
from fnet_t5x.fourier import methods
from fnet_t5x.fourier.mixing import MixingPlan, make_mixing_plan
from fnet_t5x.layers import low_pass, toeplitz_mixing
from fnet_t5x.layers.embedding import LearnedPositions, sinusoidal_positions
from fnet_t5x.layers.normalization import LayerNorm
from fnet_t5x.networks import layer_stack, t5, t5_config, t5_encoder
from fnet_t5x.networks.decoder_mixings import DecoderMixing, layer_names
from fnet_t5x.networks.encoder_mixings import MIXINGS, Mixing, MixingInputs
from fnet_t5x.networks.mixing_decoder import MixingDecoder
from fnet_t5x.networks.mixing_places import Layout, attention_places
from fnet_t5x.networks.segments import segments_and_positions

# The paper's, of which `fnet.py` has all.
PublishedMixing = Literal['fourier', 'attention', 'linear', 'none', 'random']
Positions = Literal['none', 'learned', 'sinusoidal']

Tokens = t5_config.Tokens
Activations = t5_config.Activations


def mixing_layout(
  num_encoder_layers: int,
  mixing: Mixing | PublishedMixing = 'fourier',
  num_attention_layers: int = 2,
  layout: Layout = 'top',
) -> tuple[Mixing | PublishedMixing, ...]:
  """Returns the mixing of each layer of a hybrid (2105.03824, section 4.4).

  For six layers, two with attention (A) and the others with `mixing` (f):

      bottom  A A f f f f
      middle  f f A A f f
      mixed   A f f A f f
      top     f f f f A A

  'mixed' is the published code's: layer i attends if it is a multiple of
  `num_encoder_layers // num_attention_layers`. Unless that division is exact,
  more layers may attend than were asked for.

  Args:
    num_encoder_layers: depth of the encoder.
    mixing: the mixing of the other layers.
    num_attention_layers: number of layers with attention.
    layout: the place of those in the stack.

  Returns:
    One name per layer, starting at the input.

  Raises:
    ValueError: for an unknown name, or more attention layers than layers.
  """
  check_choice('mixing', mixing, Literal[Mixing, PublishedMixing])
  chosen = attention_places(num_encoder_layers, num_attention_layers, layout)
  return tuple(
    'attention' if i in chosen else mixing for i in range(num_encoder_layers)
  )


@struct.dataclass
class FNetT5Config(t5.T5Config):
  """T5's configuration, extended by that of the mixing encoder.

  Attributes:
    encoder_mixing: one name per layer. None: `mixing_layout` with its defaults.
    encoder_position_embedding: what is added to the token embeddings.
      `learned` limits inputs to `max_encoder_length`.
    max_encoder_length: longest encoder input, in tokens, that learned
      positions, linear mixing and free Toeplitz filters support.
    fourier_scale: 'ortho', or 'none' for FNet's unnormalised transform.
    fourier_lengths: 'exact' transforms each example over its own tokens;
      'padded' transforms whole rows, with padding and packed neighbours.
    fourier_method: 'fft', 'matmul', or 'auto' by backend and length. The three
      also hold for Hartley transforms.
    toeplitz_filter: 'free', one parameter per lag; or 'network', computed from
      the lag, for inputs of any length.
    toeplitz_method: 'fft', 'matmul', or 'auto' by backend and length.
      The methods and the filter are also those of the decoder.
    gated_convolution_width: tokens that the convolution of gated blocks covers;
      odd.
    encoder_output_rate: input tokens per token that the decoder attends to;
      above 1, the encoder's output is cut to low frequencies (`low_pass`).
    decoder_mixing: one name per layer of the decoder (`decoder_mixings`), in
      place of self-attention. None: attention, T5's decoder.
    max_decoder_length: the fixed length of causal Fourier mixing, and of free
      causal filters: the longest decoder input, in tokens, that they support.

  Raises:
    ValueError: for an unknown name, a width that is even, a rate below 1, heads
      that do not divide `emb_dim` where they must, or if `encoder_mixing` or
      `decoder_mixing` does not name one mixing per layer.
  """

  encoder_mixing: Sequence[Mixing] | None = None
  encoder_position_embedding: Positions = 'learned'
  max_encoder_length: int = 512
  fourier_scale: methods.Scale = 'ortho'
  fourier_lengths: methods.Lengths = 'exact'
  fourier_method: methods.Method = 'auto'
  toeplitz_filter: toeplitz_mixing.Filter = 'free'
  toeplitz_method: methods.Method = 'auto'
  gated_convolution_width: int = 5
  encoder_output_rate: int = 1
  decoder_mixing: Sequence[DecoderMixing] | None = None
  max_decoder_length: int = 512

  def __post_init__(self):
    super().__post_init__()
    for name, choices in (
      ('encoder_position_embedding', Positions),
      ('fourier_scale', methods.Scale),
      ('fourier_lengths', methods.Lengths),
      ('fourier_method', methods.Method),
      ('toeplitz_filter', toeplitz_mixing.Filter),
      ('toeplitz_method', methods.Method),
    ):
      check_choice(name, getattr(self, name), choices)
    width = self.gated_convolution_width
    number_ranges.check('GATED_CONVOLUTION_WIDTH', width, 1, whole=True)
    if width % 2 == 0:
      raise ValueError(f'GATED_CONVOLUTION_WIDTH is {width}; it must be odd')
    rate = self.encoder_output_rate
    number_ranges.check('ENCODER_OUTPUT_RATE', rate, 1, whole=True)
    if isinstance(self.encoder_mixing, str):
      raise ValueError(
        f'encoder_mixing={self.encoder_mixing!r} is one name; give one per '
        f'layer, or set NON_ATTENTION_MIXING={self.encoder_mixing!r} for the '
        'layers without attention'
      )
    for mixing in self.layer_mixing:
      check_choice('encoder_mixing', mixing, Mixing)
    if len(self.layer_mixing) != self.num_encoder_layers:
      raise ValueError(
        f'encoder_mixing names {len(self.layer_mixing)} layers, '
        f'num_encoder_layers is {self.num_encoder_layers}; make them equal'
      )
    toeplitz = [name for name in self.layer_mixing if 'toeplitz' in name]
    if toeplitz and self.emb_dim % self.num_heads:
      raise ValueError(
        f'encoder_mixing={toeplitz[0]!r} has one filter per head: '
        f'emb_dim={self.emb_dim} must be a multiple of '
        f'num_heads={self.num_heads}'
      )
    length = self.max_decoder_length
    number_ranges.check('MAX_DECODER_LENGTH', length, 1, whole=True)
    _ = self.decoder_layer_mixing  # checked there

  @property
  def decoder_layer_mixing(self) -> tuple[DecoderMixing, ...]:
    """The mixing of each decoder layer."""
    return layer_names(
      self.decoder_mixing,
      self.num_decoder_layers,
      emb_dim=self.emb_dim,
      num_heads=self.num_heads,
    )

  @property
  def layer_mixing(self) -> tuple[Mixing, ...]:
    """The mixing of each encoder layer."""
    if self.encoder_mixing is None:
      return mixing_layout(self.num_encoder_layers)
    return tuple(self.encoder_mixing)


class EncoderLayer(nn.Module):
  """Pre-norm token mixing other than attention, then a feed-forward block.

  With mixing 'none' the layer is the feed-forward block alone.
  """

  config: FNetT5Config
  mixing: Mixing

  @nn.compact
  def __call__(
    self,
    inputs: Activations,
    mixing_inputs: MixingInputs,
    deterministic: bool = False,
  ) -> Activations:
    """Applies the layer."""
    cfg = self.config
    x = inputs
    if self.mixing != 'none':
      x = LayerNorm(dtype=cfg.dtype, name='pre_mixing_layer_norm')(x)
      x = MIXINGS[self.mixing](cfg, x, mixing_inputs)
      x = inputs + t5_config.dropout(cfg)(x, deterministic=deterministic)

    y = LayerNorm(dtype=cfg.dtype, name='pre_mlp_layer_norm')(x)
    y = t5_config.feed_forward(cfg, 'encoder_length')(
      y, deterministic=deterministic
    )
    return x + t5_config.dropout(cfg)(y, deterministic=deterministic)


class Encoder(nn.Module):
  """A stack of encoder layers, each with its own mixing."""

  config: FNetT5Config
  shared_embedding: nn.Module

  @nn.compact
  def __call__(
    self,
    encoder_input_tokens: Tokens,
    encoder_segment_ids: Tokens | None = None,
    encoder_positions: Tokens | None = None,
    deterministic: bool = False,
  ) -> Activations:
    """Encodes each example.

    Args:
      encoder_input_tokens: the inputs; 0 is padding, and follows the tokens.
      encoder_segment_ids: id of the packed example that each token belongs to;
        None if each row is one example.
      encoder_positions: position of each token in its example, read only
        together with `encoder_segment_ids`; None derives it from those.
      deterministic: whether to skip dropout.

    Returns:
      The encoded inputs, shorter by `encoder_output_rate`; values on padding
      have no meaning.

    Raises:
      ValueError: if rows are longer than `max_encoder_length` where that is a
        limit.
    """
    cfg = self.config
    mixing_inputs = self._mixing_inputs(
      encoder_input_tokens, encoder_segment_ids, encoder_positions
    )
    x = self.shared_embedding(encoder_input_tokens.astype(jnp.int32))
    x = self._add_positions(x, mixing_inputs.positions)
    x = t5_config.dropout(cfg)(x, deterministic=deterministic).astype(cfg.dtype)
    first = 0
    for stack, mixing, count in layer_stack.runs(cfg.layer_mixing, 'encoder'):
      layer, fields = EncoderLayer, {'config': cfg, 'mixing': mixing}
      shared = (mixing_inputs, deterministic)
      if mixing == 'attention':
        layer, fields = t5_encoder.EncoderLayer, {'config': cfg}
        shared = (mixing_inputs.mask, mixing_inputs.bias, deterministic)
      x = layer_stack.apply_layers(
        self,
        layer,
        fields,
        count,
        x,
        *shared,
        stack=stack,
        first=first,
        length_axis='encoder_length',
      )
      first += count
    if cfg.encoder_output_rate > 1:
      places = low_pass.make_places(
        mixing_inputs.segment_ids,
        mixing_inputs.positions,
        cfg.encoder_output_rate,
      )
      # Before the norm: means of states are smaller than states.
      x = low_pass.shorten(x, places)
    x = LayerNorm(dtype=cfg.dtype, name='encoder_norm')(x)
    return nn.Dropout(rate=cfg.dropout_rate)(x, deterministic=deterministic)

  def _mixing_inputs(self, tokens, segment_ids, positions) -> MixingInputs:
    cfg = self.config
    mask = bias = None
    if 'attention' in cfg.layer_mixing:
      mask = t5_encoder.encoder_attention_mask(tokens, segment_ids, cfg.dtype)
      if cfg.shares_relpos_bias:
        length = tokens.shape[-1]
        bias = t5_config.relative_position_biases(cfg)(length, length, True)
    segment_ids, positions = segments_and_positions(
      tokens, segment_ids, positions
    )
    fourier, hartley = (
      self._plan(transform, segment_ids, positions)
      for transform in ('fourier', 'hartley')
    )
    return MixingInputs(segment_ids, positions, mask, bias, fourier, hartley)

  def _plan(self, transform, segment_ids, positions) -> MixingPlan | None:
    cfg = self.config
    if not {transform, f'{transform}_gated'} & set(cfg.layer_mixing):
      return None
    return make_mixing_plan(
      segment_ids,
      positions,
      transform=transform,
      lengths=cfg.fourier_lengths,
      method=cfg.fourier_method,
      scale=cfg.fourier_scale,
      embed=cfg.emb_dim,
      dtype=cfg.dtype,
    )

  def _add_positions(self, x, positions):
    cfg = self.config
    if cfg.encoder_position_embedding == 'none':
      return x
    if positions is None:
      positions = jnp.arange(x.shape[1], dtype=jnp.int32)[None, :]
    if cfg.encoder_position_embedding == 'learned':
      embedded = LearnedPositions(
        cfg.max_encoder_length,
        cfg.emb_dim,
        cfg.dtype,
        name='position_embedder',
      )(positions)
    else:
      embedded = sinusoidal_positions(positions, cfg.emb_dim, cfg.dtype)
    return x + jnp.broadcast_to(embedded, x.shape)


class Transformer(t5.Transformer):
  """T5 with the mixing encoder, and T5's decoder by default."""

  config: FNetT5Config

  def make_encoder(self) -> nn.Module:
    """Returns the mixing encoder."""
    return Encoder(self.config, self.shared_embedding)

  def make_decoder(self) -> nn.Module:
    """Returns T5's decoder, or that with other mixings."""
    attention = set(self.config.decoder_layer_mixing) <= {'attention'}
    decoder = t5.Decoder if attention else MixingDecoder
    return decoder(self.config, self.shared_embedding)

  def attended(
    self, encoder_input_tokens: Tokens, encoder_segment_ids: Tokens | None
  ) -> tuple[Tokens, Tokens | None]:
    """Returns the segment ids of a shorter output, in place of tokens too."""
    if self.config.encoder_output_rate == 1:
      return encoder_input_tokens, encoder_segment_ids
    ids, positions = segments_and_positions(
      encoder_input_tokens, encoder_segment_ids, None
    )
    ids = low_pass.shortened_segment_ids(
      low_pass.make_places(ids, positions, self.config.encoder_output_rate)
    )
    return ids, None if encoder_segment_ids is None else ids
