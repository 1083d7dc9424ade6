"""GPT-2's configuration, and the initial values of its parameters."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jax.nn.initializers import Initializer

from fnet_t5x import number_ranges
from fnet_t5x.choices import check_choice
from fnet_t5x.fourier import methods
from fnet_t5x.layers import fused_attention, toeplitz_mixing
from fnet_t5x.networks.decoder_mixings import DecoderMixing, layer_names
from fnet_t5x.networks.layer_stack import RematPolicy

_STDDEV = 0.02
INIT = nn.initializers.normal(_STDDEV)


@struct.dataclass
class GPT2Config:
  """Sizes and options of the network; the defaults are those of 124M.

  Attributes:
    vocab_size: number of token ids.
    dtype: of activations; parameters and logits are float32.
    emb_dim: the `embed` axis.
    num_heads: attention heads of each layer, each `emb_dim / num_heads` wide.
    num_layers: depth.
    mlp_dim: the `mlp` axis; None for `4 emb_dim`, as published.
    max_length: number of positions, in tokens.
    dropout_rate: of every dropout.
    attention_implementation: see `fused_attention.choose_implementation`.
    one_hot_embedding: see `embedding.Embed.one_hot`.
    remat_policy: see `t5_config.T5Config`.
    decoder_mixing: one name per layer (`decoder_mixings`), in place of
      attention. None: attention, GPT-2. `max_length` is also the fixed length
      of causal Fourier mixing, and of free filters.
    fourier_method: 'fft', 'matmul', or 'auto' by backend and length.
    toeplitz_filter: 'free', one parameter per lag; or 'network', computed from
      the lag.
    toeplitz_method: as `fourier_method`.

  Raises:
    ValueError: for an unknown name, a number out of range, heads that do not
      divide the width, or if `decoder_mixing` does not name one per layer.
  """

  vocab_size: int = 50257
  dtype: jnp.dtype = jnp.float32
  emb_dim: int = 768
  num_heads: int = 12
  num_layers: int = 12
  mlp_dim: int | None = None
  max_length: int = 1024
  dropout_rate: float = 0.1
  attention_implementation: fused_attention.AttentionImplementation = 'auto'
  one_hot_embedding: bool | None = None
  remat_policy: RematPolicy = 'none'
  decoder_mixing: Sequence[DecoderMixing] | None = None
  fourier_method: methods.Method = 'auto'
  toeplitz_filter: toeplitz_mixing.Filter = 'free'
  toeplitz_method: methods.Method = 'auto'

  def __post_init__(self):
    number_ranges.check('DROPOUT_RATE', self.dropout_rate, 0, below=1)
    check_choice('remat_policy', self.remat_policy, RematPolicy)
    check_choice(
      'attention_implementation',
      self.attention_implementation,
      fused_attention.AttentionImplementation,
    )
    if self.emb_dim % self.num_heads:
      raise ValueError(
        f'num_heads={self.num_heads} does not divide emb_dim={self.emb_dim}'
      )
    for name, choices in (
      ('fourier_method', methods.Method),
      ('toeplitz_filter', toeplitz_mixing.Filter),
      ('toeplitz_method', methods.Method),
    ):
      check_choice(name, getattr(self, name), choices)
    _ = self.decoder_layer_mixing  # checked there

  @property
  def decoder_layer_mixing(self) -> tuple[DecoderMixing, ...]:
    """The mixing of each layer."""
    return layer_names(
      self.decoder_mixing,
      self.num_layers,
      emb_dim=self.emb_dim,
      num_heads=self.num_heads,
    )

  @property
  def max_decoder_length(self) -> int:
    """The fixed length of causal mixings; `decoder_mixings` reads this."""
    return self.max_length

  @property
  def scan_layers(self) -> bool:
    """Layers are unrolled; `layer_stack` and T5X's decoding read this."""
    return False

  @property
  def feed_forward_width(self) -> int:
    """Width of the feed-forward block's hidden layer."""
    return 4 * self.emb_dim if self.mlp_dim is None else self.mlp_dim

  @property
  def residual_init(self) -> Initializer:
    """Initializer of projections that are added to the residual stream.

    Their number is `2 num_layers`; dividing by its root keeps the variance of
    the sum independent of depth (GPT-2's report, section 2.3).
    """
    return nn.initializers.normal(self._residual_stddev)

  @property
  def residual_scale(self) -> float:
    """Initial factor of a mixing without projections.

    Of such a projection's output, for inputs of unit variance, this is the
    standard deviation. Embeddings have one of 0.02 at first: added as it is, a
    mixing would drown them.
    """
    return self._residual_stddev * self.emb_dim**0.5

  @property
  def _residual_stddev(self) -> float:
    return _STDDEV / (2 * self.num_layers) ** 0.5
