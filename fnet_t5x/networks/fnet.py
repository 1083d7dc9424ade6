"""FNet: the published encoder and its heads (2105.03824).

A BERT whose attention is replaced, layer by layer, by another mixing of tokens.
Names and shapes of parameters, and what is computed from them, are those of
google-research/google-research `f_net`, so that its checkpoints can be
converted. One id differs: padding is 0, as in all of this project; it is 3 in
the published vocabulary.
"""

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.partitioning import param_with_axes, with_sharding_constraint
from jaxtyping import Array, Float

from fnet_t5x.layers.normalization import CenteredLayerNorm
from fnet_t5x.networks.fnet_config import FEW, INIT, FNetConfig, dense
from fnet_t5x.networks.fnet_encoder import Activations, Encoder, Tokens

__all__ = ['Encoder', 'FNet', 'FNetConfig']


class OutputLayer(nn.Module):
  """Logits `x kernel^T + output_bias`, in float32.

  Attributes:
    features: number of logits.
    axis: logical name of their axis.
  """

  features: int
  axis: str

  @nn.compact
  def __call__(
    self,
    x: Float[Array, '*batch embed'],
    kernel: Float[Array, 'features embed'] | None = None,
  ) -> Float[Array, '*batch features']:
    """Returns logits, by the layer's own kernel unless one is given."""
    if kernel is None:
      kernel = param_with_axes(
        'output_kernel',
        INIT,
        (self.features, x.shape[-1]),
        jnp.float32,
        axes=(self.axis, 'embed'),
      )
    bias = param_with_axes(
      'output_bias', INIT, (self.features,), jnp.float32, axes=(self.axis,)
    )
    x = jnp.dot(x.astype(jnp.float32), kernel.T)
    return x + jnp.broadcast_to(bias, x.shape)


class FNet(nn.Module):
  """The encoder with its heads.

  Masked language modeling and sentence pairs always have a head, as in the
  published checkpoints; classification has one if `num_classes` is set.
  """

  config: FNetConfig

  def setup(self):
    cfg = self.config
    self.encoder = Encoder(cfg)
    self.predictions_dense = dense(cfg, cfg.embedding_width, ('embed', 'mlp'))
    self.predictions_layer_norm = CenteredLayerNorm(dtype=cfg.dtype)
    self.predictions_output = OutputLayer(cfg.vocab_size, 'vocab')
    self.classification = OutputLayer(2, FEW)
    if cfg.num_classes is not None:
      self.class_head = dense(
        cfg.replace(dtype=jnp.float32), cfg.num_classes, ('embed', FEW), INIT
      )

  def encode(
    self,
    encoder_input_tokens: Tokens,
    encoder_type_ids: Tokens | None = None,
    encoder_segment_ids: Tokens | None = None,
    encoder_positions: Tokens | None = None,
    enable_dropout: bool = True,
  ) -> Activations:
    """Returns the hidden states; see `Encoder.__call__`."""
    return self.encoder(
      encoder_input_tokens,
      encoder_type_ids,
      encoder_segment_ids,
      encoder_positions,
      deterministic=not enable_dropout,
    )

  def pool(self, hidden: Activations) -> Float[Array, 'batch embed']:
    """Returns each row's pooled hidden states, tanh of a map of [CLS]'s."""
    return self.encoder.pool(hidden)

  def mlm_logits(
    self, hidden: Float[Array, '*batch embed']
  ) -> Float[Array, '*batch vocab']:
    """Returns logits of the token at each position, or at gathered ones.

    The output layer's kernel is the word embedding.
    """
    x = nn.gelu(self.predictions_dense(hidden), approximate=True)
    x = self.predictions_layer_norm(x)
    x = self.predictions_output(x, self.encoder.embedder.word.embedding)
    return with_sharding_constraint(x, ('batch', 'length', 'vocab'))

  def pair_logits(
    self, pooled: Float[Array, 'batch embed']
  ) -> Float[Array, 'batch 2']:
    """Returns logits of the two relations of a sentence pair."""
    return self.classification(pooled)

  def class_logits(
    self, pooled: Float[Array, 'batch embed']
  ) -> Float[Array, 'batch classes']:
    """Returns logits of the classes, or predictions of a regression.

    Raises:
      ValueError: without `num_classes`.
    """
    if self.config.num_classes is None:
      raise ValueError(
        'class_logits: this FNet has no classification head; set num_classes'
      )
    return self.class_head(pooled)

  def __call__(
    self,
    encoder_input_tokens: Tokens,
    encoder_type_ids: Tokens | None = None,
    encoder_segment_ids: Tokens | None = None,
    encoder_positions: Tokens | None = None,
    *,
    enable_dropout: bool = True,
  ) -> Activations:
    """Returns the hidden states; at initialization, also makes all heads."""
    hidden = self.encode(
      encoder_input_tokens,
      encoder_type_ids,
      encoder_segment_ids,
      encoder_positions,
      enable_dropout,
    )
    if self.is_initializing():
      pooled = self.pool(hidden)
      self.mlm_logits(hidden[:, :1])
      self.pair_logits(pooled)
      if self.config.num_classes is not None:
        self.class_logits(pooled)
    return hidden
