"""FNet's configuration, and the linear map built from it."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jax.nn.initializers import Initializer

from fnet_t5x import number_ranges
from fnet_t5x.choices import check_choice
from fnet_t5x.fourier import methods
from fnet_t5x.layers import fused_attention
from fnet_t5x.layers.dense import DenseGeneral
from fnet_t5x.networks.fnet_t5 import PublishedMixing

INIT = nn.initializers.normal(0.02)
# Name of axes with few entries: T5X's rules replicate it.
FEW = 'abspos_buckets'
# Mixings that keep packed examples apart in any case.
_SEPARATING = ('attention', 'none')


@struct.dataclass
class FNetConfig:
  """Sizes and options of the network; the defaults are FNet-Base's.

  Attributes:
    vocab_size: number of token ids.
    dtype: of activations; parameters and logits are float32.
    emb_dim: width of the layers, the `embed` axis.
    embedding_dim: width of the embeddings and of the masked language modeling
      head; None for `emb_dim`.
    mlp_dim: the `mlp` axis.
    num_layers: depth.
    num_heads: heads of attention layers, each `emb_dim / num_heads` wide.
    max_length: longest input, in tokens.
    type_vocab_size: number of type ids.
    layer_mixing: one name per layer, from the input on; None for 'fourier' in
      all. 'attention' is BERT's, 'linear' and 'random' are matrices, learned
      and fixed, and 'none' is the feed-forward block alone. See
      `fnet_t5.mixing_layout` for hybrids.
    fourier_lengths: 'padded' mixes whole rows, padding included, as published;
      'exact' mixes each example over its own tokens, so that results do not
      depend on padding or packing. Also holds for 'linear' and 'random'.
    fourier_scale: 'none' for the published unnormalised transform, or 'ortho'.
    fourier_method: 'fft', 'matmul', or 'auto' by backend and length.
    attention_implementation: see `fused_attention.choose_implementation`.
    random_seed: of the matrices of 'random'.
    dropout_rate: of every dropout.
    num_classes: outputs of the classification head; None for no such head.

  Raises:
    ValueError: for an unknown name, a number out of range, a `layer_mixing`
      that does not name one mixing per layer, or heads that do not divide the
      width.
  """

  vocab_size: int = 32000
  dtype: jnp.dtype = jnp.float32
  emb_dim: int = 768
  embedding_dim: int | None = None
  mlp_dim: int = 3072
  num_layers: int = 12
  num_heads: int = 12
  max_length: int = 512
  type_vocab_size: int = 4
  layer_mixing: Sequence[PublishedMixing] | None = None
  fourier_lengths: methods.Lengths = 'padded'
  fourier_scale: methods.Scale = 'none'
  fourier_method: methods.Method = 'auto'
  attention_implementation: fused_attention.AttentionImplementation = 'auto'
  random_seed: int = 0
  dropout_rate: float = 0.1
  num_classes: int | None = None

  def __post_init__(self):
    number_ranges.check('DROPOUT_RATE', self.dropout_rate, 0, below=1)
    for name, choices in (
      ('fourier_lengths', methods.Lengths),
      ('fourier_scale', methods.Scale),
      ('fourier_method', methods.Method),
      (
        'attention_implementation',
        fused_attention.AttentionImplementation,
      ),
    ):
      check_choice(name, getattr(self, name), choices)
    if isinstance(self.layer_mixing, str):
      raise ValueError(
        f'layer_mixing={self.layer_mixing!r} is one name; give one per layer: '
        f'({self.layer_mixing!r},) * {self.num_layers}'
      )
    for mixing in self.mixings:
      check_choice('layer_mixing', mixing, PublishedMixing)
    if len(self.mixings) != self.num_layers:
      raise ValueError(
        f'layer_mixing names {len(self.mixings)} layers, num_layers is '
        f'{self.num_layers}; make them equal'
      )
    if 'attention' in self.mixings and self.emb_dim % self.num_heads:
      raise ValueError(
        f'num_heads={self.num_heads} does not divide emb_dim={self.emb_dim}'
      )

  @property
  def mixings(self) -> tuple[PublishedMixing, ...]:
    """The mixing of each layer."""
    if self.layer_mixing is None:
      return ('fourier',) * self.num_layers
    return tuple(self.layer_mixing)

  @property
  def embedding_width(self) -> int:
    """Width of the embeddings."""
    return self.embedding_dim or self.emb_dim

  def check_packing(self) -> None:
    """Checks that rows may be packed.

    Raises:
      ValueError: a layer would mix the examples of a packed row.
    """
    mixing = sorted(set(self.mixings).difference(_SEPARATING))
    if mixing and self.fourier_lengths == 'padded':
      raise ValueError(
        f"{mixing[0]} mixing over whole rows would mix a row's packed "
        "examples: set PACK = False, or FOURIER_LENGTHS = 'exact'"
      )


def dense(
  config: FNetConfig,
  features: int,
  axes: tuple[str, str],
  bias_init: Initializer = nn.initializers.zeros,
  name: str | None = None,
) -> DenseGeneral:
  """A linear map with bias; as published, most biases start at 0."""
  return DenseGeneral(
    features,
    dtype=config.dtype,
    kernel_init=INIT,
    kernel_axes=axes,
    use_bias=True,
    bias_init=bias_init,
    name=name,
  )
