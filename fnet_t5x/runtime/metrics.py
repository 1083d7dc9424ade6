"""Training metrics that merge across microbatches and steps (clu)."""

from collections.abc import Mapping, MutableMapping

import clu.values
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from jaxtyping import Array, Bool, Float, Int

MetricsMap = MutableMapping[str, clu_metrics.Metric]
Scalar = int | float | np.number | np.ndarray | jax.Array


@flax.struct.dataclass
class Sum(clu_metrics.Metric):
  """Sum over all values."""

  total: Scalar

  @classmethod
  def from_model_output(cls, values: Scalar, **_) -> 'Sum':
    return cls(total=jnp.sum(jnp.asarray(values)))

  def merge(self, other: 'Sum') -> 'Sum':
    return type(self)(total=self.total + other.total)

  def compute(self) -> Array:
    return jnp.array(self.total)


@flax.struct.dataclass
class Step(clu_metrics.Metric):
  """Metric with a number of steps.

  Merging counts every microbatch as a step, so the true number must be set with
  `replace_steps` before `compute`.
  """

  steps: int | None = 1

  def replace_steps(self, steps: int) -> 'Step':
    return self.replace(steps=steps)

  def compute(self) -> Array:
    if self.steps is None:
      raise ValueError(
        f'{type(self).__name__} has no number of steps: call replace_steps'
      )
    return jnp.array(self.steps)


@flax.struct.dataclass
class AveragePerStep(Step):
  """Total per step."""

  total: Scalar | None = None

  @classmethod
  def from_model_output(
    cls, values: Scalar, steps: int | None = 1, **_
  ) -> 'AveragePerStep':
    return cls(total=jnp.sum(jnp.asarray(values)), steps=steps)

  def merge(self, other: 'AveragePerStep') -> 'AveragePerStep':
    return type(self)(
      total=self.total + other.total, steps=self.steps + other.steps
    )

  def compute(self) -> Array:
    if self.total is None:
      raise ValueError('AveragePerStep has no total')
    return self.total / super().compute()


@flax.struct.dataclass
class Time(clu_metrics.Metric):
  """Duration in seconds, measured outside the step; see `replace_duration`."""

  duration: Scalar | None = None

  def merge(self, other: 'Time') -> 'Time':
    return self

  def compute(self) -> Array:
    if self.duration is None:
      raise ValueError(
        f'{type(self).__name__} has no duration: call replace_duration'
      )
    return jnp.array(self.duration)

  def replace_duration(self, duration: Scalar) -> 'Time':
    return self.replace(duration=duration)


@flax.struct.dataclass
class TimeRate(Time):
  """Quantity per second."""

  numerator: Scalar | None = None

  @classmethod
  def from_model_output(cls, numerator: Scalar, **_) -> 'TimeRate':
    return cls(numerator=numerator)

  def merge(self, other: 'TimeRate') -> 'TimeRate':
    if self.duration is not None or other.duration is not None:
      raise ValueError('merge a TimeRate before its duration is set')
    return type(self)(numerator=self.numerator + other.numerator)

  def compute(self) -> Array:
    return self.numerator / super().compute()


@flax.struct.dataclass
class StepsPerTime(Step, Time):
  """Steps per second."""

  @classmethod
  def from_model_output(cls, steps: int | None = 1, **_) -> 'StepsPerTime':
    return cls(steps=steps)

  def merge(self, other: 'StepsPerTime') -> 'StepsPerTime':
    return type(self)(steps=self.steps + other.steps)

  def compute(self) -> Array:
    return Step.compute(self) / Time.compute(self)


def is_metric_obj(obj) -> bool:
  return isinstance(obj, clu_metrics.Metric)


def create_metrics_dict(float_metrics_dict: Mapping[str, Scalar]) -> MetricsMap:
  """Returns a `Sum` for each number."""
  return {name: Sum(value) for name, value in float_metrics_dict.items()}


def shape_obj_to_defined_obj(obj: clu_metrics.Metric) -> clu_metrics.Metric:
  """Returns a metric with zeros instead of the shapes of `jax.eval_shape`.

  Args:
    obj: a metric whose leaves are `jax.ShapeDtypeStruct`s.

  Returns:
    The same metric with arrays of zeros; other leaves are unchanged.
  """
  return jax.tree.map(
    lambda leaf: (
      jnp.zeros(leaf.shape, leaf.dtype) if hasattr(leaf, 'shape') else leaf
    ),
    obj,
  )


def _map_metrics(fn, kind, metrics):
  return jax.tree.map(
    lambda metric: fn(metric) if isinstance(metric, kind) else metric,
    metrics,
    is_leaf=is_metric_obj,
  )


def set_time_metrics_duration(metrics: MetricsMap, duration: Scalar):
  """Sets the duration of every `Time` in the tree, in seconds."""
  return _map_metrics(lambda m: m.replace_duration(duration), Time, metrics)


def set_step_metrics_num_steps(metrics: MetricsMap, num_steps: int):
  """Sets the number of steps of every `Step` in the tree."""
  return _map_metrics(lambda m: m.replace_steps(num_steps), Step, metrics)


def scalars(metrics: MetricsMap) -> dict[str, float]:
  """Returns the metrics as floats."""
  return {name: float(value.value) for name, value in values(metrics).items()}


def values(
  metrics: MetricsMap,
) -> dict[str, clu.values.Value]:
  """Returns the metrics as clu values."""
  return {name: metric.compute_value() for name, metric in metrics.items()}


def count_packed_examples(
  segment_ids: Int[Array, 'batch length'],
) -> Int[Array, '']:
  """Returns the number of examples in a packed batch.

  An example is a run of equal non-zero ids. Ids need not be consecutive, and
  padding is at the end of a row: [[1, 1, 3, 3, 0], [2, 2, 2, 2, 2],
  [2, 7, 7, 7, 0]] has five examples.
  """
  # Padding masks are boolean, and have one run per row.
  ids = segment_ids.astype(jnp.int32)
  previous = jnp.pad(ids, ((0, 0), (1, 0)))[:, :-1]
  return jnp.sum((ids != previous) & (ids != 0))


def compute_base_metrics(
  logits: Float[Array, 'batch length vocab'],
  targets: Int[Array, 'batch length'],
  mask: Array | None,
  loss: Float[Array, ''],
  z_loss: Float[Array, ''] | None = None,
  segment_ids: Mapping[str, Int[Array, 'batch length']] | None = None,
) -> MetricsMap:
  """Returns the metrics of one (micro)batch, under T5X's names.

  Args:
    logits: unnormalized log-probabilities.
    targets: token ids.
    mask: [batch, length], non-zero for tokens that count in the loss; None if
      all do.
    loss: total loss of the batch, including z_loss.
    z_loss: the part of `loss` due to z-loss; None omits its metrics.
    segment_ids: ids of packed examples, or padding masks, by feature.

  Returns:
    Metrics by name. Before `compute()`, those under `timing/` need
    `set_time_metrics_duration`, and those per step
    `set_step_metrics_num_steps`.
  """
  correct = jnp.argmax(logits, axis=-1) == targets
  return compute_token_metrics(
    correct, targets, mask, loss, z_loss, segment_ids
  )


def compute_token_metrics(
  correct: Bool[Array, 'batch length'],
  targets: Int[Array, 'batch length'],
  mask: Array | None,
  loss: Float[Array, ''],
  z_loss: Float[Array, ''] | None = None,
  segment_ids: Mapping[str, Int[Array, 'batch length']] | None = None,
) -> MetricsMap:
  """Returns `compute_base_metrics`, given which predictions are correct."""
  num_examples = jnp.array(targets.shape[0])
  num_tokens = jnp.array(targets.size)
  num_devices = jax.device_count()
  real_tokens = targets.size if mask is None else jnp.sum(mask)
  average, rate = clu_metrics.Average, TimeRate.from_model_output

  metrics = {
    'accuracy': average.from_model_output(
      correct.astype(jnp.float32), mask=mask
    ),
    'loss': AveragePerStep(total=loss),
    'loss_per_nonpadding_target_token': average(loss, real_tokens),
    'loss_per_all_target_tokens': average(loss, num_tokens),
    'timing/seqs_per_second': rate(num_examples),
    'timing/steps_per_second': StepsPerTime.from_model_output(),
    'timing/seconds': Time(),
    'timing/seqs': Sum(num_examples),
    'timing/seqs_per_second_per_core': rate(num_examples / num_devices),
    'timing/target_tokens_per_second': rate(num_tokens),
    'timing/target_tokens_per_second_per_core': rate(num_tokens / num_devices),
    'non_padding_fraction/loss_weights': average(real_tokens, num_tokens),
  }
  if z_loss is not None:
    cross_entropy = loss - z_loss
    metrics |= {
      'z_loss': AveragePerStep(total=z_loss),
      'z_loss_per_all_target_tokens': average(z_loss, num_tokens),
      'cross_ent_loss': AveragePerStep(total=cross_entropy),
      'cross_ent_loss_per_all_target_tokens': average(
        jnp.sum(cross_entropy), num_tokens
      ),
    }
  if segment_ids is not None:
    metrics |= _padding_metrics(segment_ids)
  return metrics


def _padding_metrics(segment_ids) -> MetricsMap:
  """Returns examples per step and the non-padding fraction, by feature."""
  metrics = {}
  all_real = all_tokens = jnp.array(0)
  for feature, ids in segment_ids.items():
    if ids is None or ids.shape[1] == 0:
      continue
    real, tokens = jnp.sum(ids != 0), jnp.array(ids.size)
    metrics[f'effective_batch_size/{feature}'] = AveragePerStep(
      total=count_packed_examples(ids)
    )
    metrics[f'non_padding_fraction/{feature}'] = clu_metrics.Average(
      real, tokens
    )
    all_real, all_tokens = all_real + real, all_tokens + tokens
  metrics['non_padding_fraction/overall'] = clu_metrics.Average(
    all_real, all_tokens
  )
  return metrics
