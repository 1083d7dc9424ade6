"""The loop over steps, and what happens between them."""

import math
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import tensorflow as tf

from fnet_t5x.runtime import (
  checkpoints,
  datasets,
  inference,
  reporting,
)
from fnet_t5x.runtime import metrics as metrics_lib
from fnet_t5x.runtime import trainer as trainer_lib


class TrainLoop:
  """Trains, and reports, evaluates and saves when each is due.

  A period counts from step 0, not from where a run started, so that a run
  that was stopped reports, evaluates and saves at the same steps.
  """

  def __init__(
    self,
    trainer: trainer_lib.Trainer,
    reporter: reporting.Reporter,
    checkpoint_manager: checkpoints.CheckpointManager | None,
    save_cfg: checkpoints.SaveCheckpointConfig | None,
    train_iter: datasets.DeviceIterator,
    eval_datasets: Mapping[str, tf.data.Dataset],
    evaluator: inference.InferenceEvaluator | None,
  ):
    self._trainer = trainer
    self._reporter = reporter
    self._manager = checkpoint_manager
    self._save_cfg = save_cfg
    self._train_iter = train_iter
    self._eval_datasets = eval_datasets
    self._evaluator = evaluator
    self._step = int(trainer.train_state.step)

  def run(
    self,
    batches: Iterator[trainer_lib.Batch],
    total_steps: int,
    stats_period: int,
    eval_period: int,
  ) -> None:
    """Trains to `total_steps`, or until the trainer is told to stop.

    Raises:
      ValueError: the loss is no number; the last checkpoint is kept.
    """
    save_period = self._save_cfg.period if self._manager else 0
    while self._step < total_steps and not self._trainer.stop_training:
      boundary = min(
        _next(self._step, period)
        for period in (stats_period, eval_period, save_period, total_steps)
        if period
      )
      boundary = min(boundary, total_steps)
      try:
        metrics, taken = self._trainer.train(batches, boundary - self._step)
      except StopIteration:
        raise ValueError(
          f'the training data ended after step {self._step}; let it repeat '
          '(num_epochs None), or lower TRAIN_STEPS'
        ) from None
      self._step += taken
      if not taken:
        break
      values = scalars(metrics)
      self._reporter.train(self._step, values, self._trainer.flops_per_step)
      self._check_finite(values)
      last = self._step == total_steps
      if save_period and (last or self._step % save_period == 0):
        self.save()
      if eval_period and (last or self._step % eval_period == 0):
        self.evaluate()
    if self._manager:
      self.save()

  def save(self) -> None:
    """Starts to save, unless the step is saved or a parameter is no number."""
    if self._manager is None:
      return
    if not _all_finite(self._trainer.train_state.params):
      self._stop_not_a_number('a parameter')
    self._manager.save(
      self._trainer.train_state,
      self._save_cfg.dtype,
      self._train_iter if self._save_cfg.save_dataset else None,
    )

  def evaluate(self) -> None:
    """Evaluates with teacher forcing, then with predictions."""
    for task, batches in self._eval_datasets.items():
      metrics = self._trainer.eval(batches.as_numpy_iterator())
      if not metrics:
        raise ValueError(
          f'{task}: the evaluation split gives not one batch; check the '
          'corpus, or lower BATCH_SIZE'
        )
      self._reporter.eval(self._step, task, scalars(metrics))
    if self._evaluator:
      self._evaluator.evaluate(self._trainer.train_state)

  def close(self) -> None:
    """Waits for checkpoints and summaries."""
    self._reporter.close()
    if self._manager:
      self._manager.close()

  def _check_finite(self, values: Mapping[str, float]) -> None:
    for name in ('loss', 'grad_norm'):
      if not math.isfinite(values[name]):
        self._stop_not_a_number(f'the {name} ({values[name]})')

  def _stop_not_a_number(self, what: str) -> None:
    kept = 'no checkpoint was saved'
    if self._manager and self._manager.latest_step() is not None:
      self._manager.wait_until_finished()
      kept = f'the checkpoint of step {self._manager.latest_step()} is kept'
    raise ValueError(
      f'{what} is no finite number at step {self._step}: stopped; {kept}. '
      'Lower the learning rate, or look at the data'
    )


def scalars(metrics: metrics_lib.MetricsMap) -> dict[str, float]:
  """Returns each metric's value."""
  return {
    name: float(metric.compute_value().value)
    for name, metric in metrics.items()
  }


def _next(step: int, period: int) -> int:
  return (step // period + 1) * period


@jax.jit
def _all_finite(params) -> jax.Array:
  leaves = jax.tree.leaves(params)
  return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves]))
