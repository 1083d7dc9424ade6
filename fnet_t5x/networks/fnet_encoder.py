"""FNet's encoder."""

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from flax.linen.partitioning import with_sharding_constraint
from jaxtyping import Array, Float

from fnet_t5x.fourier.mixing import MixingPlan, make_mixing_plan
from fnet_t5x.layers.attention import MultiHeadDotProductAttention
from fnet_t5x.layers.dense import DenseGeneral
from fnet_t5x.layers.embedding import Embed, LearnedPositions
from fnet_t5x.layers.fourier_mixing import FourierMixing
from fnet_t5x.layers.matrix_mixing import LinearTransform, RandomTransform
from fnet_t5x.layers.normalization import CenteredLayerNorm
from fnet_t5x.networks import t5_config
from fnet_t5x.networks.fnet_config import FEW, INIT, FNetConfig, dense
from fnet_t5x.networks.fnet_t5 import PublishedMixing
from fnet_t5x.networks.segments import positions_of_segments, real_segment_ids
from fnet_t5x.networks.t5_encoder import encoder_attention_mask

Tokens = t5_config.Tokens
Activations = t5_config.Activations

_AXES = ('batch', 'encoder_length', 'embed')


@struct.dataclass
class MixingInputs:
  """Per-batch inputs of token mixing, computed once for all layers.

  Attributes:
    segment_ids: id of the example that each token belongs to, 0 on padding;
      None to mix whole rows.
    positions: of each token in its example; None if rows are not packed.
    mask: attention mask; None without attention layers.
    plan: plan of the Fourier transform; None without Fourier layers.
  """

  segment_ids: Tokens | None
  positions: Tokens | None
  mask: t5_config.Mask | None
  plan: MixingPlan | None


class Embedder(nn.Module):
  """Word, position and type embeddings, normalized and projected."""

  config: FNetConfig

  def setup(self):
    cfg = self.config

    def embed(num_embeddings, **fields):
      return Embed(
        num_embeddings,
        cfg.embedding_width,
        dtype=cfg.dtype,
        attend_dtype=jnp.float32,  # logits
        embedding_init=INIT,
        **fields,
      )

    self.word = embed(cfg.vocab_size)
    self.position = LearnedPositions(
      cfg.max_length,
      cfg.embedding_width,
      cfg.dtype,
      INIT,
      row_axis=True,
      limit='max_length',
    )
    self.type = embed(cfg.type_vocab_size, axes=(FEW, 'embed'), one_hot=False)
    self.layer_norm = CenteredLayerNorm(dtype=cfg.dtype)
    # The one kernel that f_net leaves to Flax's default initializer.
    self.hidden_mapping_in = DenseGeneral(
      cfg.emb_dim,
      dtype=cfg.dtype,
      kernel_init=nn.initializers.lecun_normal(),
      kernel_axes=('embed', 'mlp'),
      use_bias=True,
    )
    self.dropout = nn.Dropout(cfg.dropout_rate)

  def __call__(
    self,
    tokens: Tokens,
    type_ids: Tokens,
    positions: Tokens,
    deterministic: bool = False,
  ) -> Activations:
    """Embeds each token."""
    x = self.word(tokens) + self.type(type_ids)
    x = x + jnp.broadcast_to(self.position(positions), x.shape)
    x = self.hidden_mapping_in(self.layer_norm(x))
    x = with_sharding_constraint(x, _AXES)
    return self.dropout(x, deterministic=deterministic)


class FeedForward(nn.Module):
  """Two linear maps with a tanh-approximated GELU in between."""

  config: FNetConfig

  @nn.compact
  def __call__(
    self, x: Activations, deterministic: bool = False
  ) -> Activations:
    """Applies the block to each token independently."""
    cfg = self.config
    y = dense(cfg, cfg.mlp_dim, ('embed', 'mlp'), INIT, name='intermediate')(x)
    y = nn.gelu(y, approximate=True)
    y = with_sharding_constraint(y, ('batch', 'encoder_length', 'mlp'))
    y = dense(cfg, cfg.emb_dim, ('mlp', 'embed'), name='output')(y)
    return nn.Dropout(cfg.dropout_rate)(y, deterministic=deterministic)


class EncoderLayer(nn.Module):
  """Mixing, then a feed-forward block, each added to its input and normalized.

  Attributes:
    config: the configuration.
    mixing: name of the mixing.
    mixer: module that mixes; None for 'fourier' and 'none', which have no
      parameters. Belongs to the encoder, as its parameters do.
    feed_forward: the block; belongs to the encoder.
  """

  config: FNetConfig
  mixing: PublishedMixing
  mixer: nn.Module | None
  feed_forward: nn.Module

  @nn.compact
  def __call__(
    self,
    x: Activations,
    mixing_inputs: MixingInputs,
    deterministic: bool = False,
  ) -> Activations:
    """Applies the layer."""
    dtype = self.config.dtype
    mixed = self._mix(x, mixing_inputs, deterministic)
    x = CenteredLayerNorm(dtype=dtype, name='mixing_layer_norm')(x + mixed)
    y = self.feed_forward(x, deterministic)
    x = CenteredLayerNorm(dtype=dtype, name='output_layer_norm')(x + y)
    return with_sharding_constraint(x, _AXES)

  def _mix(self, x, inputs, deterministic):
    match self.mixing:
      case 'fourier':
        return FourierMixing(name='fourier')(x, inputs.plan)
      case 'attention':
        return self.mixer(x, x, inputs.mask, deterministic=deterministic)
      case 'none':
        return x  # Published as the identity: the sum is 2 x.
    return self.mixer(x, inputs.segment_ids, inputs.positions)


class Encoder(nn.Module):
  """The encoder without task-specific heads."""

  config: FNetConfig

  def setup(self):
    cfg = self.config
    self.embedder = Embedder(cfg)
    self.layers = [
      EncoderLayer(
        cfg,
        mixing,
        self._mixer(mixing, i),
        FeedForward(cfg, name=f'feed_forward_{i}'),
        name=f'encoder_{i}',
      )
      for i, mixing in enumerate(cfg.mixings)
    ]
    self.pooler = dense(cfg, cfg.emb_dim, ('embed', 'mlp'))

  def __call__(
    self,
    encoder_input_tokens: Tokens,
    encoder_type_ids: Tokens | None = None,
    encoder_segment_ids: Tokens | None = None,
    encoder_positions: Tokens | None = None,
    deterministic: bool = False,
  ) -> Activations:
    """Encodes each example.

    Args:
      encoder_input_tokens: the inputs; 0 is padding, and follows the tokens.
      encoder_type_ids: 0 on [CLS] A [SEP], 1 on B [SEP]; None for 0.
      encoder_segment_ids: id of the packed example that each token belongs to;
        None if each row is one example. With `fourier_lengths='padded'` only
        attention keeps examples apart.
      encoder_positions: position of each token in its example, read only
        together with `encoder_segment_ids`; None derives it from those.
      deterministic: whether to skip dropout.

    Returns:
      The hidden states.

    Raises:
      ValueError: if rows are longer than `max_length`.
    """
    tokens = encoder_input_tokens.astype(jnp.int32)
    types = encoder_type_ids
    types = jnp.zeros_like(tokens) if types is None else types.astype(jnp.int32)
    positions = None
    if encoder_segment_ids is not None:
      positions = encoder_positions
      if positions is None:
        ids = jnp.where(tokens > 0, encoder_segment_ids, 0)
        positions = positions_of_segments(ids)
      positions = positions.astype(jnp.int32)
    inputs = self._mixing_inputs(tokens, encoder_segment_ids, positions)
    if positions is None:
      positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :]
    x = self.embedder(tokens, types, positions, deterministic)
    for layer in self.layers:
      x = layer(x, inputs, deterministic)
    return x

  def pool(self, hidden: Activations) -> Float[Array, 'batch embed']:
    """Returns tanh of a linear map of each row's first token, [CLS]."""
    return jnp.tanh(self.pooler(hidden[:, 0]))

  def _mixer(self, mixing, layer):
    cfg = self.config
    match mixing:
      case 'attention':
        return MultiHeadDotProductAttention(
          num_heads=cfg.num_heads,
          head_dim=cfg.emb_dim // cfg.num_heads,
          dtype=cfg.dtype,
          dropout_rate=cfg.dropout_rate,
          kernel_init=INIT,
          joined_kv=False,
          implementation=self._attention_implementation(),
          use_bias=True,
          bias_init=INIT,
          divide_query=True,
          broadcast_dropout=False,
          name=f'self_attention_{layer}',
        )
      case 'linear':
        return LinearTransform(
          cfg.max_length, cfg.dtype, name=f'linear_transform_{layer}'
        )
      case 'random':
        return RandomTransform(
          cfg.max_length,
          layer,
          cfg.random_seed,
          cfg.dtype,
          name=f'random_transform_{layer}',
        )
    return None

  def _attention_implementation(self):
    cfg = self.config
    if cfg.fourier_lengths == 'padded' and set(cfg.mixings) & {
      'fourier',
      'linear',
      'random',
    }:
      # These layers read padding, where cuDNN computes something else.
      implementation = cfg.attention_implementation
      return 'xla' if implementation == 'auto' else implementation
    return cfg.attention_implementation

  def _mixing_inputs(self, tokens, segment_ids, positions) -> MixingInputs:
    cfg = self.config
    mask = plan = None
    if 'attention' in cfg.mixings:
      mask = encoder_attention_mask(tokens, segment_ids, cfg.dtype)
    segment_ids = real_segment_ids(tokens, segment_ids)
    if 'fourier' in cfg.mixings:
      plan = make_mixing_plan(
        segment_ids,
        positions,
        lengths=cfg.fourier_lengths,
        method=cfg.fourier_method,
        scale=cfg.fourier_scale,
        embed=cfg.emb_dim,
        dtype=cfg.dtype,
      )
    if cfg.fourier_lengths == 'padded':
      segment_ids = positions = None
    return MixingInputs(segment_ids, positions, mask, plan)
