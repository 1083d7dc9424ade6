"""What the engine needs of a model, and the loss that Transformers share."""

import abc
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import seqio
from clu import metrics as clu_metrics
from jaxtyping import Array, Float, Int, PyTree

from fnet_t5x import number_ranges
from fnet_t5x.runtime import losses, output_loss
from fnet_t5x.runtime.metrics import (
  MetricsMap,
  compute_base_metrics,
  compute_token_metrics,
)

Batch = Mapping[str, Array]
LossNormalizingFactor = (
  float | int | str | losses.SpecialLossNormalizingFactor | None
)
# (inputs, cache, tokens_to_logits, eos_id, num_decodes, cache_offset, ...) ->
# decodes [batch, num_decodes, length], scores [batch, num_decodes], both in
# increasing order of score.
DecodeFnCallable = Callable[..., tuple[jax.Array, jax.Array]]


class BaseModel(abc.ABC):
  """What the trainer, the evaluator and the inference loop need of a model."""

  FEATURE_CONVERTER_CLS: Callable[..., seqio.FeatureConverter]

  def __init__(self, optimizer_def):
    self.optimizer_def = optimizer_def

  @abc.abstractmethod
  def loss_fn(
    self, params: PyTree, batch: Batch, dropout_rng: jax.Array | None
  ) -> tuple[Float[Array, ''], MetricsMap]:
    """Loss and metrics of a batch; no dropout where `dropout_rng` is None."""

  def eval_fn(
    self, params: PyTree, batch: Batch
  ) -> tuple[Float[Array, ''], MetricsMap]:
    """Loss and metrics of a batch, without dropout."""
    return self.loss_fn(params=params, batch=batch, dropout_rng=None)

  def predict_batch(
    self, params: PyTree, batch: Batch, rng: jax.Array | None = None
  ) -> Int[Array, 'batch length']:
    """Token ids that the model writes for a batch."""
    return self.predict_batch_with_aux(params=params, batch=batch, rng=rng)[0]

  @abc.abstractmethod
  def predict_batch_with_aux(
    self, params: PyTree, batch: Batch, rng: jax.Array | None = None
  ) -> tuple[Int[Array, 'batch length'], Mapping[str, Array]]:
    """`predict_batch`, and what came with it (`scores`)."""

  @abc.abstractmethod
  def score_batch(
    self, params: PyTree, batch: Batch, return_intermediates: bool = False
  ) -> Float[Array, ' batch']:
    """Log-likelihood in nats of each example's targets."""

  @abc.abstractmethod
  def get_initial_variables(
    self,
    rng: jax.Array,
    input_shapes: Mapping[str, tuple[int, ...]],
    input_types: Mapping[str, jnp.dtype] | None = None,
  ) -> PyTree:
    """Fresh variables for batches of these shapes."""


class BaseTransformerModel(BaseModel):
  """A model trained by cross-entropy of next tokens."""

  def __init__(
    self,
    module: nn.Module,
    input_vocabulary: seqio.Vocabulary,
    output_vocabulary: seqio.Vocabulary,
    optimizer_def,
    decode_fn: DecodeFnCallable | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    loss_normalizing_factor: LossNormalizingFactor = None,
  ):
    number_ranges.check('LABEL_SMOOTHING', label_smoothing, 0, below=1)
    number_ranges.check('Z_LOSS', z_loss, 0)
    self.module = module
    self._input_vocabulary = input_vocabulary
    self._output_vocabulary = output_vocabulary
    self._decode_fn = decode_fn
    self._label_smoothing = label_smoothing
    self._z_loss = z_loss
    self._loss_normalizing_factor = loss_normalizing_factor
    super().__init__(optimizer_def=optimizer_def)

  @property
  def input_vocabulary(self):
    return self._input_vocabulary

  @property
  def output_vocabulary(self):
    return self._output_vocabulary

  @property
  def decode_fn(self):
    return self._decode_fn

  @abc.abstractmethod
  def _compute_logits(
    self, params: PyTree, batch: Batch, dropout_rng: jax.Array | None = None
  ) -> Float[Array, 'batch length vocab']:
    """Logits of a teacher-forced pass."""

  def loss_fn(
    self, params: PyTree, batch: Batch, dropout_rng: jax.Array | None
  ) -> tuple[Float[Array, ''], MetricsMap]:
    """Cross-entropy of a batch, as this model's normaliser divides it.

    Args:
      params: parameters of the network.
      batch: features, as the feature converter makes them.
      dropout_rng: key for dropout; None turns dropout off.

    Returns:
      The loss, and the metrics by name.
    """
    targets = batch['decoder_target_tokens']
    factor, weights = losses.get_loss_normalizing_factor_and_weights(
      self._loss_normalizing_factor, batch
    )
    known = {
      'targets': targets,
      'mask': weights,
      'segment_ids': _segment_ids(batch),
    }
    output = None
    if type(self)._compute_metrics is BaseTransformerModel._compute_metrics:
      output = self._compute_output(params, batch, dropout_rng)
    if output is None:
      logits = self._compute_logits(params, batch, dropout_rng)
      loss, z_loss, _ = losses.compute_weighted_cross_entropy(
        logits,
        targets=targets,
        weights=weights,
        label_smoothing=self._label_smoothing,
        z_loss=self._z_loss,
        loss_normalizing_factor=factor,
      )
      metrics = self._compute_metrics(
        logits=logits, loss=loss, z_loss=z_loss, **known
      )
      token_losses, _ = losses.cross_entropy_with_ids(logits, targets)
    else:
      loss, tokens = output_loss.output_cross_entropy(
        *output, targets, weights, self._label_smoothing, self._z_loss
      )
      z_loss = jnp.sum(
        tokens.z_loss if weights is None else tokens.z_loss * weights
      )
      if factor is not None:
        loss, z_loss = loss / factor, z_loss / factor
      metrics = compute_token_metrics(
        tokens.correct, loss=loss, z_loss=z_loss, **known
      )
      token_losses = tokens.cross_entropy
    # Plain nats per target token, whatever the loss smooths, adds or divides
    # by: the one number that runs, engines and a unigram model can be compared
    # by.
    target_weights = batch.get('decoder_loss_weights', targets != 0)
    metrics['cross_ent_per_target_token'] = clu_metrics.Average(
      total=jnp.sum(token_losses * target_weights),
      count=jnp.sum(target_weights),
    )
    return loss, metrics

  def _compute_output(
    self, params: PyTree, batch: Batch, dropout_rng: jax.Array | None = None
  ) -> (
    tuple[Float[Array, 'batch length embed'], Float[Array, 'embed vocab']]
    | None
  ):
    """What the output layer takes, and its kernel; None: only logits are known.

    Where there are both, no [batch, length, vocab] array is made.
    """
    del params, batch, dropout_rng
    return None

  def _compute_metrics(
    self, logits, targets, mask, loss, z_loss=None, segment_ids=None
  ) -> MetricsMap:
    return compute_base_metrics(
      logits=logits,
      targets=targets,
      mask=mask,
      loss=loss,
      z_loss=z_loss,
      segment_ids=segment_ids,
    )


def _segment_ids(batch: Batch) -> Mapping[str, Array]:
  """Segment ids by feature; masks of real tokens where nothing is packed."""
  suffix = '_segment_ids'
  packed = {
    name.removesuffix(suffix): ids
    for name, ids in batch.items()
    if name.endswith(suffix)
  }
  return packed or {
    name: batch[name] != 0
    for name in ('encoder_input_tokens', 'decoder_target_tokens')
    if name in batch
  }
