"""The loop over steps, and what happens between them."""

import contextlib
import math
from collections.abc import Iterator, Mapping

import clu.values
import jax
import jax.numpy as jnp
import tensorflow as tf

from fnet_t5x.runtime import actions as actions_lib
from fnet_t5x.runtime import (
  checkpoints,
  console,
  datasets,
  inference,
  reporting,
)
from fnet_t5x.runtime import metrics as metrics_lib
from fnet_t5x.runtime import target_text as target_text_lib
from fnet_t5x.runtime import train_state as train_state_lib
from fnet_t5x.runtime import trainer as trainer_lib
from fnet_t5x.runtime.actions import ActionMode

_NOT_FINITE = 'a parameter or optimizer state'


class TrainLoop:
  """Trains, and reports, evaluates and saves when each is due.

  A period counts from step 0, not from where a run started, so that a run
  that was stopped reports, evaluates and saves at the same steps. Where two
  are due a report comes first, then the checkpoint, then the evaluation: a
  checkpoint thus has all reports of its steps, and an evaluation that was cut
  off is made up for when the run goes on.
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
    total_steps: int,
    stats_period: int,
    eval_period: int,
    actions: actions_lib.Actions,
    target_text: target_text_lib.TargetText | None = None,
  ):
    self._trainer = trainer
    self._reporter = reporter
    self._manager = checkpoint_manager
    self._save_cfg = save_cfg
    self._train_iter = train_iter
    self._eval_datasets = eval_datasets
    self._evaluator = evaluator
    self._total_steps = total_steps
    self._stats_period = stats_period
    self._eval_period = eval_period
    self._actions = actions
    self._target_text = target_text
    self._eval_compiled = False
    self._loss: float | None = None
    self._stopped_by_action = False
    self._save_period = save_cfg.period if checkpoint_manager else 0
    self._step = int(trainer.train_state.step)

  def run(self, batches: Iterator[trainer_lib.Batch]) -> None:
    """Trains to the last step, or until the trainer is told to stop.

    Where an action stops it, the step is saved if its state is finite.

    Raises:
      ValueError: the loss is no number, and no action stops the run for it;
        the last checkpoint is kept.
    """
    batches = self._reporter.watch(batches)
    while self._step < self._total_steps and not self._trainer.stop_training:
      periods = (self._stats_period, self._eval_period, self._save_period)
      boundary = min(
        self._total_steps,
        *(_next(self._step, period) for period in periods if period),
      )
      try:
        metrics, taken = self._trainer.train(batches, boundary - self._step)
      except StopIteration:
        raise ValueError(
          f'the training data ended after step {self._step}; let it repeat '
          '(num_epochs None), or lower TRAIN_STEPS'
        ) from None
      if not taken:
        break
      self._step += taken
      values = scalars(metrics)
      self._reporter.train(self._step, values, self._trainer.flops_per_step)
      # First: an action may be there for the very loss that is no number.
      if self._act(ActionMode.TRAIN, {reporting.TRAIN: _values(metrics)}):
        break
      self._check_finite(values)
      self._loss = values['loss']
      if self._manager:
        self._manager.check_for_errors()
      if self._is_due(self._save_period):
        self.save()
      if self._is_due(self._eval_period):
        self.evaluate()
    if self._stopped_by_action and not _all_finite(self._trainer.train_state):
      console.say(
        f'not saved, as {_NOT_FINITE} is no finite number; {self._kept()}'
      )
      return
    self.save()
    if self._manager:
      with self._reporter.busy('saving the last checkpoint'):
        self._manager.wait_until_finished()

  @property
  def saved_step(self) -> int | None:
    """The step of the last checkpoint; None where none is saved."""
    return self._manager.latest_step() if self._manager else None

  def make_up(self, run_eval_before_training: bool) -> None:
    """Evaluates where a run starts, or was cut off before it had."""
    if self._reporter.has_trained():
      due = self._is_due(self._eval_period)
    else:
      due = run_eval_before_training
    if due:
      self.evaluate()

  def save(self) -> None:
    """Starts to save, unless the step is saved.

    Raises:
      ValueError: a parameter is no number; nothing is saved.
    """
    if self._manager is None:
      return
    if not _all_finite(self._trainer.train_state):
      self._stop_not_a_number(_NOT_FINITE)
    self._manager.save(
      self._trainer.train_state,
      self._save_cfg.dtype,
      self._train_iter if self._save_cfg.save_dataset else None,
      self._loss,
    )

  def evaluate(self) -> None:
    """Evaluates with teacher forcing, then with predictions.

    What is reported is not evaluated again. A signal to stop leaves the rest
    out: the run makes up for it when it goes on. Actions see both evaluations,
    even if one of them stops the run.
    """
    by_task = {}
    for task, batches in self._eval_datasets.items():
      collection = f'training_eval/{task}'
      if self._reporter.has(collection, self._step):
        continue
      if self._trainer.stop_training:
        return
      numpy_batches = batches.as_numpy_iterator()
      if self._target_text:
        numpy_batches = self._target_text.counted(task, numpy_batches)
      with self._evaluating():
        metrics = self._trainer.eval(numpy_batches)
      if self._trainer.stop_training:
        return
      if not metrics:
        raise ValueError(
          f'{task}: the evaluation split gives not one batch; check the '
          'corpus, or lower BATCH_SIZE'
        )
      values = scalars(metrics)
      if self._target_text:
        values |= self._target_text.metrics(task, values)
      several = len(self._eval_datasets) > 1
      self._reporter.eval(self._step, collection, values, named=several)
      by_task[task] = _values(metrics)
    results = self._evaluate_predictions()
    self._act(ActionMode.TRAIN_EVAL, by_task)
    self._act(ActionMode.INFER_EVAL, results)

  def _evaluating(self) -> contextlib.AbstractContextManager[None]:
    first, self._eval_compiled = not self._eval_compiled, True
    if first:
      console.say('compiling the evaluation, then evaluating ...')
    return self._reporter.busy('evaluating', said=first)

  def _evaluate_predictions(self) -> Mapping[str, Mapping[str, float]]:
    tasks = [f'inference_eval/{task.name}' for task in self._inferred_tasks()]
    if all(self._reporter.has(task, self._step) for task in tasks):
      return {}
    if self._trainer.stop_training:
      return {}
    with self._reporter.busy('evaluating predictions'):
      try:
        results = self._evaluator.evaluate(
          self._trainer.train_state, lambda: self._trainer.stop_training
        )
      except inference.StoppedError:
        return {}
    for task, values in results.items():
      self._reporter.inference_eval(
        self._step, f'inference_eval/{task}', values
      )
    return results

  def _act(
    self,
    mode: ActionMode,
    metrics_by_task: actions_lib.MetricsByTask,
  ) -> bool:
    """Returns whether an action stops the run."""
    stops = bool(metrics_by_task) and actions_lib.run_actions(
      mode, self._actions, self._trainer.train_state, metrics_by_task
    )
    if stops:
      self._stopped_by_action = self._trainer.stop_training = True
    return stops

  def close(self) -> None:
    """Waits for checkpoints and summaries."""
    try:
      self._reporter.close()
    finally:
      if self._manager:
        self._manager.close()

  def _inferred_tasks(self):
    return self._evaluator.tasks if self._evaluator else ()

  def _is_due(self, period: int | None) -> bool:
    last = self._step == self._total_steps
    return bool(period) and (last or self._step % period == 0)

  def _check_finite(self, values: Mapping[str, float]) -> None:
    for name in ('loss', 'grad_norm'):
      if not math.isfinite(values[name]):
        self._stop_not_a_number(f'the {name} ({values[name]})')

  def _stop_not_a_number(self, what: str) -> None:
    raise ValueError(
      f'{what} is no finite number at step {self._step}: stopped; '
      f'{self._kept()}. Lower the learning rate, or look at the data'
    )

  def _kept(self) -> str:
    """Says which checkpoint there is."""
    if self._manager:
      # A checkpoint still being written counts only when it is whole.
      self._manager.wait_until_finished()
      if self.saved_step is not None:
        return f'the checkpoint of step {self.saved_step} is kept'
    return 'no checkpoint was saved'


def scalars(metrics: metrics_lib.MetricsMap) -> dict[str, float]:
  """Returns each metric's value."""
  return {name: float(value.value) for name, value in _values(metrics).items()}


def _values(
  metrics: metrics_lib.MetricsMap,
) -> dict[str, clu.values.Value]:
  return {name: metric.compute_value() for name, metric in metrics.items()}


def _next(step: int, period: int) -> int:
  return (step // period + 1) * period


@jax.jit
def _all_finite(train_state: train_state_lib.TrainState) -> jax.Array:
  leaves = jax.tree.leaves((train_state.params, train_state.param_states))
  return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves]))
