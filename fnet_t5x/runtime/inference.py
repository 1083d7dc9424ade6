"""Predictions and scores over whole datasets, for evaluation and inference."""

import contextlib
import dataclasses
import functools
import inspect
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import seqio
import tensorflow as tf
from absl import logging as absl_logging

from fnet_t5x.runtime import datasets, models, partitioning
from fnet_t5x.runtime import train_state as train_state_lib


def get_infer_fn(
  infer_step: Callable[..., Any],
  batch_size: int,
  train_state_axes: Any,
  partitioner: partitioning.PjitPartitioner,
  drops_aux: bool = False,
) -> Callable[..., Any]:
  """Returns a function that runs `infer_step` over an enumerated dataset.

  Args:
    infer_step: of parameters, a batch and, if it takes one, `rng`; returns
      outputs, or a pair of outputs and a dictionary of further arrays, each
      with a leading axis of examples.
    batch_size: examples a call.
    train_state_axes: partition specs of the train state.
    partitioner: lays the batches on the mesh.
    drops_aux: whether the further arrays are not returned. Their scores are
      checked all the same.

  Returns:
    A function of (dataset of (index, example), train state, rng, should_stop).
    It returns pairs (index, output), and beside them, where `infer_step` gives
    a pair, the dictionary of lists. It raises ValueError where a score is NaN,
    and StoppedError when `should_stop` says so between two batches.
  """
  partitioner.get_data_layout(batch_size)
  takes_rng = 'rng' in inspect.signature(infer_step).parameters

  def step(params, batch, rng):
    if takes_rng:
      return infer_step(params, batch, rng=rng)
    return infer_step(params, batch)

  partitioned = partitioner.partition(
    step,
    in_axis_resources=(
      train_state_axes.params,
      partitioner.data_partition_spec,
      None,
    ),
    out_axis_resources=None,
  )

  def infer_fn(
    dataset: tf.data.Dataset,
    train_state: train_state_lib.TrainState,
    rng: jax.Array | None = None,
    should_stop: Callable[[], bool] = lambda: False,
  ):
    indices, outputs = [], []
    for index, batch in dataset.batch(batch_size).as_numpy_iterator():
      if should_stop():
        raise StoppedError
      step_rng = None
      if rng is not None:
        step_rng, rng = jax.random.split(rng)
      # One compiled shape: the last batch is filled up, then cut.
      filled = jax.tree.map(lambda x: _fill(x, batch_size), batch)
      result = jax.device_get(partitioned(train_state.params, filled, step_rng))
      result = _cut(result, len(index))
      _check_scores(result)
      if drops_aux:
        result = result[0]
      indices.extend(index.tolist())
      outputs.append(result)
    if not outputs:
      return []
    outputs = jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)
    auxiliary = None
    if isinstance(outputs, tuple):
      outputs, auxiliary = outputs
    pairs = list(zip(indices, outputs.tolist(), strict=True))
    if auxiliary is None:
      return pairs
    return pairs, {k: v.tolist() for k, v in auxiliary.items()}

  return infer_fn


def padded_batches(
  cfg: datasets.DatasetConfig,
  task: seqio.Task,
  feature_converter_cls: Callable[..., seqio.FeatureConverter],
  num_examples: int | None = None,
) -> Iterator[Mapping[str, np.ndarray]]:
  """Yields every example of a split once, unpacked, in full batches.

  What fills the last batch has zero loss weights and no target tokens. Of the
  examples it takes the first `num_examples`; None takes all.
  """
  whole = datasets.get_dataset(
    dataclasses.replace(
      cfg,
      mixture_or_task_name=task,
      batch_size=1,
      pack=False,
      shuffle=False,
    ),
    0,
    1,
    feature_converter_cls,
    num_epochs=1,
  ).take(-1 if num_examples is None else num_examples)
  for batch in whole.unbatch().batch(cfg.batch_size).as_numpy_iterator():
    yield {
      name: np.pad(x, [(0, cfg.batch_size - len(x)), *[(0, 0)] * (x.ndim - 1)])
      for name, x in batch.items()
    }


class StoppedError(Exception):
  """A run over a dataset was told to stop."""


class InferenceEvaluator:
  """SeqIO's evaluator over the tasks of a config, by this model."""

  def __init__(
    self,
    cfg: datasets.DatasetConfig,
    evaluator_cls: Callable[..., seqio.Evaluator],
    model: models.BaseModel,
    partitioner: partitioning.PjitPartitioner,
    train_state_axes: Any,
    log_dir: str,
  ):
    provider = datasets.get_mixture_or_task(cfg)
    datasets.verify_matching_vocabs(cfg, model)
    with _lengths_as_trained():
      self._evaluator = evaluator_cls(
        mixture_or_task_name=provider.name,
        feature_converter=model.FEATURE_CONVERTER_CLS(pack=False),
        eval_split=cfg.split,
        use_cached=cfg.use_cached,
        seed=cfg.seed,
        sequence_length=cfg.task_feature_lengths,
        log_dir=os.path.join(log_dir, 'inference_eval'),
        use_memory_cache=cfg.use_memory_cache,
      )
    infer_fn = functools.partial(
      get_infer_fn,
      batch_size=cfg.batch_size,
      train_state_axes=train_state_axes,
      partitioner=partitioner,
    )
    self._predict = infer_fn(model.predict_batch_with_aux, drops_aux=True)
    self._predict_with_aux = infer_fn(model.predict_batch_with_aux)
    self._score = infer_fn(model.score_batch)

  @property
  def tasks(self) -> Sequence[seqio.Task]:
    """The tasks with metric functions."""
    return self._evaluator.eval_tasks

  def evaluate(
    self,
    train_state: train_state_lib.TrainState,
    should_stop: Callable[[], bool] = lambda: False,
  ) -> Mapping[str, Mapping[str, float]]:
    """Returns each task's metrics, and logs them.

    Raises:
      StoppedError: `should_stop`, asked before each batch, said so.
    """
    if not self.tasks:
      return {}
    score = functools.partial(
      self._score, train_state=train_state, should_stop=should_stop
    )
    bound = functools.partial(
      functools.partial,
      train_state=train_state,
      rng=jax.random.PRNGKey(0),
      should_stop=should_stop,
    )
    metrics, _ = self._evaluator.evaluate(
      compute_metrics=True,
      step=int(train_state.step),
      predict_fn=bound(self._predict),
      score_fn=score,
      predict_with_aux_fn=bound(self._predict_with_aux),
    )
    return metrics.result() or {}


@contextlib.contextmanager
def _lengths_as_trained() -> Iterator[None]:
  """Drops SeqIO's advice to evaluate at other lengths than those of training.

  A loss at other lengths is another loss.
  """

  def is_other(record: logging.LogRecord) -> bool:
    return 'longer than necessary' not in str(record.msg)

  log = absl_logging.get_absl_logger()
  log.addFilter(is_other)
  try:
    yield
  finally:
    log.removeFilter(is_other)


def evaluator(
  cfg: datasets.DatasetConfig | None,
  evaluator_cls: Callable[..., seqio.Evaluator],
  model: models.BaseModel,
  partitioner: partitioning.PjitPartitioner,
  train_state_axes: Any,
  log_dir: str,
) -> InferenceEvaluator | None:
  """Returns an evaluator; None without a config or without metrics."""
  if cfg is None:
    return None
  made = InferenceEvaluator(
    cfg, evaluator_cls, model, partitioner, train_state_axes, log_dir
  )
  return made if made.tasks else None


def _check_scores(result: Any) -> None:
  """Refuses scores that are no numbers; what goes with them is noise."""
  scores = result[1].get('scores', ()) if isinstance(result, tuple) else result
  if np.any(np.isnan(scores)):
    raise ValueError(
      'the model gives no numbers (NaN): its parameters are broken; take '
      'another checkpoint'
    )


def _cut(outputs: Any, size: int) -> Any:
  return jax.tree.map(lambda x: x[:size], outputs)


def _fill(x: np.ndarray, size: int) -> np.ndarray:
  missing = size - x.shape[0]
  if not missing:
    return x
  return np.concatenate([x, np.repeat(x[:1], missing, axis=0)])
