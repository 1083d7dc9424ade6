"""Encoder-only models: masked language models, and classifiers.

Both work with either engine. The network has the methods of
`fnet_t5x.networks.fnet.FNet`: `encode`, `pool`, `mlm_logits`, `pair_logits` and
`class_logits`. Batch features have the names of `fnet_t5x.feature_converters`.
"""

from collections.abc import Callable, Mapping

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import seqio
from clu import metrics as clu_metrics
from jaxtyping import Array, Float, Int, PyTree

from fnet_t5x import feature_converters, number_ranges
from fnet_t5x.compat import metrics as metrics_lib
from fnet_t5x.compat import models
from fnet_t5x.runtime import losses
from fnet_t5x.tasks import sentinels

Batch = Mapping[str, Array]
MetricsMap = dict[str, clu_metrics.Metric]


class _EncoderModel(models.BaseTransformerModel):
  """What the models of an encoder share."""

  def get_initial_variables(
    self,
    rng: jax.Array,
    input_shapes: Mapping[str, tuple[int, ...]],
    input_types: Mapping[str, jnp.dtype] | None = None,
  ) -> PyTree:
    """Initialises `params`, and `params_axes` with their logical axes.

    Args:
      rng: key for the initial values.
      input_shapes: shapes by feature; all but `encoder_input_tokens` may be
        absent.
      input_types: T5X's argument; ids are int32.

    Returns:
      A FrozenDict of variable collections.

    Raises:
      ValueError: rows are packed, and the network would mix their examples.
    """
    del input_types
    if 'encoder_segment_ids' in input_shapes:
      self.module.config.check_packing()
    features = {
      name: jnp.ones(input_shapes[name], jnp.int32)
      for name in (
        'encoder_type_ids',
        'encoder_segment_ids',
        'encoder_positions',
      )
      if name in input_shapes
    }
    tokens = jnp.ones(input_shapes['encoder_input_tokens'], jnp.int32)
    return flax.core.freeze(
      self.module.init(rng, tokens, **features, enable_dropout=False)
    )

  def _encode(
    self, params: PyTree, batch: Batch, dropout_rng: jax.Array | None = None
  ) -> Float[Array, 'batch length embed']:
    """Returns the hidden states; with dropout if there is a key."""
    rngs = None if dropout_rng is None else {'dropout': dropout_rng}
    return self.module.apply(
      {'params': params},
      batch['encoder_input_tokens'],
      batch.get('encoder_type_ids'),
      batch.get('encoder_segment_ids'),
      batch.get('encoder_positions'),
      enable_dropout=rngs is not None,
      rngs=rngs,
      method='encode',
    )

  def _head(self, params: PyTree, name: str, x: Array) -> Array:
    return self.module.apply({'params': params}, x, method=name)

  def _metrics(self, batch, logits, targets, weights, loss) -> MetricsMap:
    """Returns T5X's metrics; tokens per second are those of the input."""
    tokens = batch['encoder_input_tokens']
    found = dict(
      models.compute_base_metrics(
        logits=logits,
        targets=targets,
        mask=weights,
        loss=loss,
        segment_ids={'encoder': batch.get('encoder_segment_ids', tokens != 0)},
      )
    )
    rate = metrics_lib.TimeRate.from_model_output
    found['timing/target_tokens_per_second'] = rate(
      numerator=jnp.array(tokens.size)
    )
    found['timing/target_tokens_per_second_per_core'] = rate(
      numerator=jnp.array(tokens.size / jax.device_count())
    )
    return found


def _real_rows(batch: Batch) -> Float[Array, ' batch']:
  """Returns 1 for examples, and 0 for rows that only fill up a batch."""
  return jnp.any(batch['encoder_input_tokens'] != 0, axis=-1).astype(
    jnp.float32
  )


def _average(total: Array, count: Array) -> clu_metrics.Average:
  return clu_metrics.Average(total=total, count=count)


class EncoderOnlyModel(_EncoderModel):
  """Masked language model, also of sentence pairs if the batch has labels.

  The loss is the mean over predicted tokens, in nats, plus the mean over pairs
  (Lee-Thorp et al. 2021, arXiv 2105.03824, section 4.1). Tokens are predicted
  where `encoder_loss_weights` is not 0.

  Attributes:
    mask_id: id of [MASK].
    cls_id: id of [CLS].
    sep_id: id of [SEP].
  """

  FEATURE_CONVERTER_CLS = feature_converters.PretrainingFeatureConverter
  USE = 'fill in the masks of a text with it, or evaluate it:'
  EXAMPLE_PROMPT = '... [MASK] ...'

  def __init__(
    self,
    module: nn.Module,
    input_vocabulary: seqio.Vocabulary,
    output_vocabulary: seqio.Vocabulary,
    optimizer_def,
    max_predictions: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    mask_id: int | None = None,
    cls_id: int | None = None,
    sep_id: int | None = None,
  ):
    """Creates a model.

    Args:
      module: the network.
      input_vocabulary: vocabulary of the inputs.
      output_vocabulary: vocabulary of the predictions.
      optimizer_def: optimizer.
      max_predictions: maximum number of predicted tokens per row: the logits
        are [batch, max_predictions, vocab]. Further ones are not trained on,
        so that the task must not have more. None for the whole row.
      label_smoothing: as for `EncoderDecoderModel`; not for pairs.
      z_loss: as for `EncoderDecoderModel`; not for pairs.
      mask_id: id of [MASK] in the task; by default the first sentinel.
      cls_id: id of [CLS]; by default the second sentinel.
      sep_id: id of [SEP]; by default the third sentinel.

    Raises:
      ValueError: a number is out of range, or the vocabulary has too few
        sentinels.
    """
    number_ranges.check('LABEL_SMOOTHING', label_smoothing, 0, below=1)
    number_ranges.check('Z_LOSS', z_loss, 0)
    if max_predictions is not None:
      number_ranges.check('MAX_PREDICTIONS', max_predictions, 1, whole=True)
    super().__init__(
      module=module,
      input_vocabulary=input_vocabulary,
      output_vocabulary=output_vocabulary,
      optimizer_def=optimizer_def,
      label_smoothing=label_smoothing,
      z_loss=z_loss,
    )
    self._max_predictions = max_predictions
    marks = {'mask_id': mask_id, 'cls_id': cls_id, 'sep_id': sep_id}
    if input_vocabulary is not None:
      marks = sentinels.mark_ids(input_vocabulary, marks, 'EncoderOnlyModel')
    self.mask_id: int = marks['mask_id']
    self.cls_id: int = marks['cls_id']
    self.sep_id: int = marks['sep_id']

  def _predicted(
    self, weights: Array
  ) -> Int[Array, 'batch predictions'] | None:
    """Returns the predicted positions, then others; None for all."""
    limit = self._max_predictions
    if limit is None or limit >= weights.shape[1]:
      return None
    # Stable: positions of equal weight stay in order.
    return jnp.argsort(-weights.astype(jnp.float32), axis=1)[:, :limit]

  def _token_logits(
    self, params: PyTree, hidden: Array, positions: Array | None
  ) -> Float[Array, 'batch predictions vocab']:
    if positions is not None:
      hidden = jnp.take_along_axis(hidden, positions[:, :, None], axis=1)
    return self._head(params, 'mlm_logits', hidden)

  def _compute_logits(
    self, params: PyTree, batch: Batch, dropout_rng: jax.Array | None = None
  ) -> Float[Array, 'batch length vocab']:
    """Returns the logits of every position."""
    return self._token_logits(
      params, self._encode(params, batch, dropout_rng), None
    )

  def mask_logits(
    self,
    params: PyTree,
    tokens: Int[Array, 'batch length'],
    positions: Int[Array, 'batch predictions'],
  ) -> Float[Array, 'batch predictions vocab']:
    """Returns the logits at some positions of texts [CLS] text [SEP]."""
    hidden = self._encode(params, {'encoder_input_tokens': tokens})
    return self._token_logits(params, hidden, positions)

  def _at_predicted(self, params, batch, dropout_rng=None):
    """Returns hidden states, and logits, targets and weights at predictions."""
    hidden = self._encode(params, batch, dropout_rng)
    targets = batch['encoder_target_tokens']
    weights = batch['encoder_loss_weights'].astype(jnp.float32)
    positions = self._predicted(weights)
    if positions is not None:
      targets = jnp.take_along_axis(targets, positions, axis=1)
      weights = jnp.take_along_axis(weights, positions, axis=1)
    logits = self._token_logits(params, hidden, positions)
    return hidden, logits, targets, weights

  def loss_fn(
    self, params: PyTree, batch: Batch, dropout_rng: jax.Array | None
  ) -> tuple[Float[Array, ''], MetricsMap]:
    """Returns the loss of a batch in nats, and metrics by name.

    Args:
      params: parameters of the network.
      batch: features. With `next_sentence_labels`, the loss of the pairs is
        added.
      dropout_rng: key for dropout; None for no dropout.

    Returns:
      The loss, and T5X's metrics with `mlm_loss` (plain nats per predicted
      token, also as `cross_ent_per_target_token`) and `mlm_accuracy` (also as
      `accuracy`), and for pairs `pair_loss` and `pair_accuracy`.
    """
    hidden, logits, targets, weights = self._at_predicted(
      params, batch, dropout_rng
    )
    count = jnp.sum(weights)
    loss, _, _ = losses.compute_weighted_cross_entropy(
      logits,
      targets,
      weights,
      label_smoothing=self._label_smoothing,
      z_loss=self._z_loss,
      loss_normalizing_factor=jnp.maximum(count, 1.0),
    )
    token_losses, _ = losses.cross_entropy_with_ids(logits, targets)
    mlm_loss = _average(jnp.sum(token_losses * weights), count)
    added = {}
    if 'next_sentence_labels' in batch:
      pair_loss, added = self._pair_loss(params, batch, hidden)
      loss += pair_loss
    found = self._metrics(batch, logits, targets, weights, loss)
    return loss, {
      **found,
      'cross_ent_per_target_token': mlm_loss,
      'mlm_loss': mlm_loss,
      'mlm_accuracy': found['accuracy'],
      **added,
    }

  def _pair_loss(self, params, batch, hidden):
    pooled = self._head(params, 'pool', hidden)
    logits = self._head(params, 'pair_logits', pooled).astype(jnp.float32)
    labels = batch['next_sentence_labels'].reshape(-1)
    rows = _real_rows(batch)
    count = jnp.sum(rows)
    row_losses, _ = losses.cross_entropy_with_ids(logits, labels)
    total = jnp.sum(row_losses * rows)
    correct = jnp.sum((jnp.argmax(logits, axis=-1) == labels) * rows)
    return total / jnp.maximum(count, 1.0), {
      'pair_loss': _average(total, count),
      'pair_accuracy': _average(correct, count),
    }

  def predict_batch_with_aux(
    self, params: PyTree, batch: Batch, rng: jax.Array | None = None
  ) -> tuple[Int[Array, 'batch length'], Mapping[str, Array]]:
    """Fills in every [MASK] with the likeliest token, each by itself.

    Args:
      params: parameters of the network.
      batch: features; targets are not needed.
      rng: T5X's argument, unused.

    Returns:
      The input's ids with the masks filled in, and {'scores': [batch]}, the sum
      of the log-probabilities of the filled-in tokens.
    """
    del rng
    tokens = batch['encoder_input_tokens']
    masked = tokens == self.mask_id
    hidden = self._encode(params, batch)
    # Texts may have more masks than a training example has predictions.
    log_probs = jax.nn.log_softmax(self._token_logits(params, hidden, None))
    best = jnp.argmax(log_probs, axis=-1).astype(tokens.dtype)
    scores = jnp.sum(jnp.max(log_probs, axis=-1) * masked, axis=-1)
    return jnp.where(masked, best, tokens), {'scores': scores}

  def score_batch(
    self, params: PyTree, batch: Batch, return_intermediates: bool = False
  ):
    """Returns the weighted log-likelihood of the predicted tokens in nats.

    Args:
      params: parameters of the network.
      batch: features, including targets and `encoder_loss_weights`.
      return_intermediates: whether to return the targets, weights and scores
        per predicted token too, under `encoder`.

    Returns:
      Nats per example [batch]; with `return_intermediates` also a dict whose
      leaves are tuples, as `nn.Module.sow` makes them.
    """
    _, logits, targets, weights = self._at_predicted(params, batch)
    token_losses, _ = losses.cross_entropy_with_ids(logits, targets)
    token_scores = -token_losses * weights
    scores = token_scores.sum(-1)
    if not return_intermediates:
      return scores
    return scores, {
      'encoder': {
        'target_tokens': (targets,),
        'loss_weights': (weights,),
        'token_scores': (token_scores,),
      }
    }


class ClassificationModel(_EncoderModel):
  """Classifier of texts or pairs of texts, or regression with one output.

  Features: `encoder_input_tokens`, `encoder_type_ids` [batch, length], and
  `labels` [batch]: class ids, or numbers if the network has one class.
  """

  USE = 'evaluate it:'
  EXAMPLE_PROMPT = None

  def __init__(
    self,
    module: nn.Module,
    input_vocabulary: seqio.Vocabulary,
    output_vocabulary: seqio.Vocabulary,
    optimizer_def,
    feature_converter_cls: Callable[..., seqio.FeatureConverter] | None = None,
  ):
    """Creates a model.

    Args:
      module: the network; its configuration has `num_classes`.
      input_vocabulary: vocabulary of the texts.
      output_vocabulary: the same; engines ask for it.
      optimizer_def: optimizer.
      feature_converter_cls: constructs the feature converter; by default
        `ClassificationFeatureConverter`, or with one class
        `RegressionFeatureConverter`.

    Raises:
      ValueError: the network has no classification head.
    """
    self._num_classes = module.config.num_classes
    if not self._num_classes:
      raise ValueError(
        'a ClassificationModel needs a network with NUM_CLASSES: the number of '
        'classes, or 1 for regression'
      )
    self.FEATURE_CONVERTER_CLS = feature_converter_cls or (
      feature_converters.RegressionFeatureConverter
      if self.is_regression
      else feature_converters.ClassificationFeatureConverter
    )
    super().__init__(
      module=module,
      input_vocabulary=input_vocabulary,
      output_vocabulary=output_vocabulary,
      optimizer_def=optimizer_def,
    )

  @property
  def is_regression(self) -> bool:
    """Whether the labels are numbers."""
    return self._num_classes == 1

  def _compute_logits(
    self, params: PyTree, batch: Batch, dropout_rng: jax.Array | None = None
  ) -> Float[Array, 'batch classes']:
    hidden = self._encode(params, batch, dropout_rng)
    pooled = self._head(params, 'pool', hidden)
    logits = self._head(params, 'class_logits', pooled)
    return logits.astype(jnp.float32)

  def _row_losses(self, logits: Array, batch: Batch) -> Float[Array, ' batch']:
    labels = batch['labels'].reshape(-1)
    if self.is_regression:
      return jnp.square(logits[:, 0] - labels)
    return losses.cross_entropy_with_ids(logits, labels.astype(jnp.int32))[0]

  def loss_fn(
    self, params: PyTree, batch: Batch, dropout_rng: jax.Array | None
  ) -> tuple[Float[Array, ''], MetricsMap]:
    """Returns the mean loss of a batch, and metrics by name.

    The loss is the cross-entropy in nats, also reported as
    `cross_ent_per_target_token`, with `accuracy`; for regression the squared
    error, also reported as `mean_squared_error`.
    """
    logits = self._compute_logits(params, batch, dropout_rng)
    row_losses = self._row_losses(logits, batch)
    rows = _real_rows(batch)
    count = jnp.sum(rows)
    total = jnp.sum(row_losses * rows)
    loss = total / jnp.maximum(count, 1.0)
    # As one target per row, which is what T5X's metrics count.
    found = self._metrics(
      batch,
      logits[:, None],
      batch['labels'].reshape(-1, 1).astype(jnp.int32),
      rows[:, None],
      loss,
    )
    if self.is_regression:
      found.pop('accuracy')
      return loss, {**found, 'mean_squared_error': _average(total, count)}
    return loss, {
      **found,
      'cross_ent_per_target_token': _average(total, count),
    }

  def predict_batch_with_aux(
    self, params: PyTree, batch: Batch, rng: jax.Array | None = None
  ) -> tuple[Array, Mapping[str, Array]]:
    """Returns class ids (int32), or numbers (float32) of a regression.

    Args:
      params: parameters of the network.
      batch: features; labels are not needed.
      rng: T5X's argument, unused.

    Returns:
      [batch], and {'scores': [batch]}: log-probabilities of these classes, or
      the numbers.
    """
    del rng
    logits = self._compute_logits(params, batch)
    if self.is_regression:
      return logits[:, 0], {'scores': logits[:, 0]}
    classes = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return classes, {'scores': jnp.max(jax.nn.log_softmax(logits), axis=-1)}

  def score_batch(
    self, params: PyTree, batch: Batch, return_intermediates: bool = False
  ):
    """Returns minus the loss per example [batch].

    Args:
      params: parameters of the network.
      batch: features, including `labels`.
      return_intermediates: whether to return an empty dict, too.
    """
    logits = self._compute_logits(params, batch)
    scores = -self._row_losses(logits, batch)
    return (scores, {}) if return_intermediates else scores
