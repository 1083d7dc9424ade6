"""T5's configuration, and the sublayers built from it."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Num

from fnet_t5x import number_ranges
from fnet_t5x.choices import check_choice
from fnet_t5x.layers import fused_attention, masks
from fnet_t5x.layers.attention import MultiHeadDotProductAttention
from fnet_t5x.layers.feed_forward import MlpBlock
from fnet_t5x.layers.relative_position import RelativePositionBiases
from fnet_t5x.networks.layer_stack import RematPolicy

Tokens = Int[Array, 'batch length']
Activations = Float[Array, 'batch length embed']
Mask = Num[Array, 'batch 1 q_length kv_length'] | masks.LengthMask


@struct.dataclass
class T5Config:
  """Sizes and options of the network.

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
    logits_via_embedding: whether the token embedding is also the output layer.
    float32_attention_logits: whether attention logits are always float32.
    attention_implementation: 'xla', 'cudnn', or 'auto': cuDNN on a GPU where it
      computes the same; see `fused_attention.choose_implementation`. cuDNN's
      logits are always float32.
    one_hot_embedding: see `embedding.Embed.one_hot`.
    scan_layers: whether layers of one kind are compiled once and scanned; see
      `layer_stack` for the effect on parameters.
    remat_policy: what the forward pass saves for the backward pass. 'none':
      everything; 'minimal': products with weights, and the output of mixing;
      'full': only each layer's input; or a policy of `jax.checkpoint_policies`.
    relpos_bias_per_layer: whether each layer has its own relative position
      biases, where T5 shares one table per stack. Scanned layers always have
      their own, as in T5X.

  Raises:
    ValueError: for an unknown policy or implementation.
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
  attention_implementation: fused_attention.AttentionImplementation = 'auto'
  one_hot_embedding: bool | None = None
  scan_layers: bool = False
  remat_policy: RematPolicy = 'none'
  relpos_bias_per_layer: bool = False

  def __post_init__(self):
    number_ranges.check('DROPOUT_RATE', self.dropout_rate, 0, below=1)
    check_choice('remat_policy', self.remat_policy, RematPolicy)
    check_choice(
      'attention_implementation',
      self.attention_implementation,
      fused_attention.AttentionImplementation,
    )

  @property
  def shares_relpos_bias(self) -> bool:
    """Whether all layers of a stack share one table of position biases."""
    return not (self.scan_layers or self.relpos_bias_per_layer)


def relative_position_biases(config: T5Config) -> RelativePositionBiases:
  """Relative position biases, of one layer or shared by a stack."""
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
    joined_kv=not config.scan_layers,
    implementation=config.attention_implementation,
    name=name,
  )


def feed_forward(config: T5Config, length_axis: str = 'length') -> MlpBlock:
  """A feed-forward block of the configured size."""
  return MlpBlock(
    intermediate_dim=config.mlp_dim,
    activations=config.mlp_activations,
    intermediate_dropout_rate=config.dropout_rate,
    dtype=config.dtype,
    length_axis=length_axis,
    name='mlp',
  )


def dropout(config: T5Config) -> nn.Dropout:
  """Dropout whose mask is the same for all positions of a row."""
  return nn.Dropout(rate=config.dropout_rate, broadcast_dims=(-2,))
