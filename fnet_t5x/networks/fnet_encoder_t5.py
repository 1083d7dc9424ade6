"""The published FNet encoder with T5's decoder.

The encoder is `fnet_encoder.Encoder`, post-norm and with embeddings of its own,
under the parameter names of FNet's checkpoints, so that a run can start from
one. `fnet_t5.py` is the hybrid to train from scratch: T5's pre-norm encoder
with its attention replaced.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from flax.linen.partitioning import with_sharding_constraint

from fnet_t5x.layers.dense import DenseGeneral
from fnet_t5x.networks import t5
from fnet_t5x.networks.fnet_config import FNetConfig
from fnet_t5x.networks.fnet_encoder import Encoder
from fnet_t5x.networks.t5_config import Activations, T5Config, Tokens

__all__ = ['FNetConfig', 'FNetEncoderT5Config', 'T5Config', 'Transformer']


@struct.dataclass
class FNetEncoderT5Config:
  """Configurations of both halves; widths and vocabularies may differ.

  Attributes:
    encoder: of FNet's encoder. Its `vocab_size` is that of the inputs;
      `num_classes` has no effect.
    decoder: of T5's decoder. Its `vocab_size` is that of the targets;
      `num_encoder_layers` has no effect.

  Raises:
    ValueError: if the decoder's layers are scanned.
  """

  encoder: FNetConfig
  decoder: T5Config

  def __post_init__(self):
    if self.decoder.scan_layers:
      raise ValueError(
        "SCAN_LAYERS: layers of FNet's encoder have names of their own and "
        'cannot be scanned; set it to False'
      )

  @property
  def dtype(self) -> jnp.dtype:
    """Of the decoder's activations, hence of the network's outputs."""
    return self.decoder.dtype

  # Sizes that devices divide among them: what divides both halves' sizes.

  @property
  def vocab_size(self) -> int:
    """Greatest common divisor of both vocabularies' sizes."""
    return math.gcd(self.encoder.vocab_size, self.decoder.vocab_size)

  @property
  def emb_dim(self) -> int:
    """Greatest common divisor of both widths."""
    return math.gcd(self.encoder.emb_dim, self.decoder.emb_dim)

  @property
  def mlp_dim(self) -> int:
    """Greatest common divisor of both feed-forward blocks' widths."""
    return math.gcd(self.encoder.mlp_dim, self.decoder.mlp_dim)

  @property
  def num_heads(self) -> int:
    """Greatest common divisor of the heads, of halves with attention."""
    if 'attention' not in self.encoder.mixings:
      return self.decoder.num_heads
    return math.gcd(self.encoder.num_heads, self.decoder.num_heads)


class Transformer(t5.Transformer):
  """T5 with FNet's encoder; its methods and decoder are T5's.

  The encoder has no heads and no pooler. The decoder's `token_embedder` embeds
  targets alone. Where widths differ, `encoder_projection` maps the encoder's
  output to the decoder's.
  """

  config: FNetEncoderT5Config

  def setup(self):
    super().setup()
    encoder, decoder = self.config.encoder, self.config.decoder
    self.encoder_projection = None
    if encoder.emb_dim != decoder.emb_dim:
      self.encoder_projection = DenseGeneral(
        decoder.emb_dim, dtype=decoder.dtype, kernel_axes=('embed', 'mlp')
      )

  @property
  def decoder_config(self) -> T5Config:
    """Configuration of the decoder, and of the embedding that it reads."""
    return self.config.decoder

  def make_encoder(self) -> nn.Module:
    """Returns FNet's encoder."""
    return Encoder(self.config.encoder)

  def encode(
    self,
    encoder_input_tokens: Tokens,
    encoder_segment_ids: Tokens | None = None,
    enable_dropout: bool = True,
    *,
    encoder_positions: Tokens | None = None,
  ) -> Activations:
    """Encodes the inputs; all tokens have type 0.

    Args:
      encoder_input_tokens: the inputs; 0 is padding.
      encoder_segment_ids: id of the packed example that each token belongs to.
      enable_dropout: whether to apply dropout.
      encoder_positions: position of each token in its example.

    Returns:
      The encoded inputs, as wide as the decoder.

    Raises:
      ValueError: rows are packed, and the encoder would mix their examples.
    """
    if encoder_segment_ids is not None:
      self.config.encoder.check_packing()
    encoded = self.encoder(
      encoder_input_tokens,
      None,
      encoder_segment_ids,
      encoder_positions,
      deterministic=not enable_dropout,
    )
    if self.encoder_projection is None:
      return encoded
    encoded = self.encoder_projection(encoded)
    return with_sharding_constraint(
      encoded, ('batch', 'encoder_length', 'embed')
    )
