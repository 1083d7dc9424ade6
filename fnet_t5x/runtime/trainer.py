"""The training step, with microbatches, its loop over batches, and actions.

`train.actions` maps a moment to actions; each is shown the metrics of that
moment, task by task, and says whether training is to stop:

    train.actions = {'TRAIN_EVAL': [@trainer.EarlyStoppingAction()]}
"""

import abc
import collections
import enum
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import clu.values
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from clu import metrics as clu_metrics
from jaxtyping import Array, Float, Int, PRNGKeyArray

from fnet_t5x.backend import current_backend
from fnet_t5x.costs import flops
from fnet_t5x.runtime import metrics as metrics_lib
from fnet_t5x.runtime import models, partitioning
from fnet_t5x.runtime import train_state as train_state_lib

Batch = Mapping[str, jax.Array]
LearningRate = Callable[[Int[Array, '']], Float[Array, '']]


class Trainer:
  """Holds the train state, and moves it through batches.

  A step's dropout key is `fold_in(rng, step)`, so a run that was stopped
  continues with the keys it would have had (T5X's derivation).

  Attributes:
    train_state: parameters, optimizer state and step, on the mesh.
    num_microbatches: parts that a batch is cut in; None or 1 for none.
    flops_per_step: what a training step takes on all devices, by the formulas
      of `costs.flops`: the same whether layers are scanned, batches cut, or
      activations computed twice. None before `compile_train`, and for a network
      that has no formula there.
    stop_training: set it, from a signal handler say, and `train` returns
      after the step under way, `eval` after the batch.
  """

  def __init__(
    self,
    model: models.BaseModel,
    train_state: train_state_lib.TrainState,
    partitioner: partitioning.PjitPartitioner,
    eval_names: Iterable[str],
    summary_dir: str | None,
    train_state_axes: Any,
    rng: PRNGKeyArray,
    learning_rate_fn: LearningRate,
    num_microbatches: int | None,
  ):
    del eval_names, summary_dir  # T5X's trainer writes its own summaries.
    self.train_state = train_state
    self.flops_per_step: float | None = None
    self.stop_training = False
    spec = partitioner.data_partition_spec
    train_step = functools.partial(
      _train_step,
      model=model,
      rng=rng,
      learning_rate_fn=learning_rate_fn,
      num_microbatches=num_microbatches,
      data_partition_spec=spec,
    )
    self._partitioner = partitioner
    self.num_microbatches = num_microbatches
    self._config = getattr(getattr(model, 'module', None), 'config', None)
    self._train_step = partitioner.partition(
      train_step,
      in_axis_resources=(train_state_axes, spec),
      out_axis_resources=(train_state_axes, None),
      donate_argnums=(0,),
    )
    self._eval_step = partitioner.partition(
      lambda state, batch: model.eval_fn(state.params, batch)[1],
      in_axis_resources=(train_state_axes, spec),
      out_axis_resources=None,
    )

  def compile_train(self, batch: Batch) -> jax.stages.Compiled:
    """Compiles the training step for batches of this one's shapes.

    Shapes are enough, of the batch and of the state.
    """
    self._train_step = self._partitioner.compile(
      self._train_step, self.train_state, batch
    )
    # Not the compiler's count, which takes the body of a loop once: a loop over
    # layers, microbatches, or both.
    self.flops_per_step = flops.batch_flops(
      self._config, batch, current_backend()
    )
    return self._train_step

  def train(
    self, batches: Iterator[Batch], num_steps: int
  ) -> tuple[metrics_lib.MetricsMap, int]:
    """Takes up to `num_steps` steps.

    Returns:
      The metrics of the steps taken, merged and with their duration, and the
      number of steps taken: fewer where `stop_training` was set.
    """
    jax.block_until_ready(self.train_state)
    start = time.perf_counter()
    metrics, taken = None, 0
    while taken < num_steps and not self.stop_training:
      self.train_state, update = self._train_step(
        self.train_state, next(batches)
      )
      # Two steps under way keep a device busy; more would make a stop wait.
      jax.block_until_ready(metrics)
      metrics = update if metrics is None else _merge(metrics, update)
      taken += 1
    if metrics is None:
      return {}, 0
    metrics = jax.device_get(metrics)
    return _timed(metrics, time.perf_counter() - start, taken), taken

  def eval(self, batches: Iterable[Batch]) -> metrics_lib.MetricsMap:
    """Returns the merged metrics of the batches, without dropout.

    None where there is no batch, or `stop_training` was set.
    """
    start = time.perf_counter()
    metrics, taken = None, 0
    for batch in batches:
      if self.stop_training:
        return {}
      update = self._eval_step(self.train_state, batch)
      metrics = update if metrics is None else _merge(metrics, update)
      taken += 1
    if metrics is None:
      return {}
    metrics = jax.device_get(metrics)
    return _timed(metrics, time.perf_counter() - start, taken)


def accumulate_grads_microbatched(
  model: models.BaseModel,
  train_state: train_state_lib.TrainState,
  batch: Batch,
  dropout_rng: PRNGKeyArray,
  num_microbatches: int | None,
  data_partition_spec: jax.sharding.PartitionSpec,
) -> tuple[Any, metrics_lib.MetricsMap]:
  """Returns gradients summed over microbatches, and their merged metrics.

  Args:
    model: gives the loss.
    train_state: holds the parameters.
    batch: arrays with a leading axis of examples.
    dropout_rng: the step's key; each microbatch takes a split of it.
    num_microbatches: parts to cut the batch in; None or 1 for none.
    data_partition_spec: how a microbatch lies on the mesh.

  Raises:
    ValueError: the microbatches do not divide the batch.
  """
  grad_fn = jax.value_and_grad(model.loss_fn, has_aux=True)
  params = train_state.params
  if num_microbatches is None or num_microbatches <= 1:
    (_, metrics), grads = grad_fn(params, batch, dropout_rng)
    return grads, metrics

  batch_size = next(iter(batch.values())).shape[0]
  if batch_size % num_microbatches:
    raise ValueError(
      f'batch size {batch_size} is not divisible by num_microbatches '
      f'{num_microbatches}'
    )
  size = batch_size // num_microbatches

  def part(index: Int[Array, '']) -> Batch:
    return {
      name: jax.lax.with_sharding_constraint(
        jax.lax.dynamic_slice_in_dim(x, index * size, size),
        data_partition_spec,
      )
      for name, x in batch.items()
    }

  def add_part(carry, index):
    rng, total, metrics = carry
    rng, part_rng = jax.random.split(rng)
    (_, update), grads = grad_fn(params, part(index), part_rng)
    metrics = jax.lax.cond(
      index == 0, lambda: update, lambda: _merge(metrics, update)
    )
    return (rng, jax.tree.map(jnp.add, total, grads), metrics), None

  shapes = jax.eval_shape(lambda: grad_fn(params, part(0), dropout_rng))[0][1]
  empty = {
    k: metrics_lib.shape_obj_to_defined_obj(v) for k, v in shapes.items()
  }
  zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
  (_, grads, metrics), _ = jax.lax.scan(
    add_part, (dropout_rng, zeros, empty), jnp.arange(num_microbatches)
  )
  return grads, metrics


def _train_step(
  train_state: train_state_lib.TrainState,
  batch: Batch,
  *,
  model: models.BaseModel,
  rng: PRNGKeyArray,
  learning_rate_fn: LearningRate,
  num_microbatches: int | None,
  data_partition_spec: jax.sharding.PartitionSpec,
) -> tuple[train_state_lib.TrainState, metrics_lib.MetricsMap]:
  step = train_state.step
  grads, metrics = accumulate_grads_microbatched(
    model,
    train_state,
    batch,
    jax.random.fold_in(rng, step),
    num_microbatches,
    data_partition_spec,
  )
  learning_rate = learning_rate_fn(step)
  new_state = train_state.apply_gradient(grads, learning_rate=learning_rate)
  last = clu_metrics.LastValue.from_model_output
  average = clu_metrics.Average.from_model_output
  return new_state, {
    **metrics,
    'learning_rate/current': last(jnp.asarray([learning_rate])),
    'grad_norm': average(optax.tree.norm(grads)[None]),
  }


@functools.partial(jax.jit, donate_argnums=(0,))
def _merge(
  metrics: metrics_lib.MetricsMap, update: metrics_lib.MetricsMap
) -> metrics_lib.MetricsMap:
  return {name: metrics[name].merge(update[name]) for name in metrics}


def _timed(
  metrics: metrics_lib.MetricsMap, seconds: float, steps: int
) -> metrics_lib.MetricsMap:
  metrics = metrics_lib.set_time_metrics_duration(metrics, seconds)
  return metrics_lib.set_step_metrics_num_steps(metrics, steps)


# Metrics by name, by task. Training itself is the task 'train'.
MetricsByTask = Mapping[str, Mapping[str, clu.values.Value | float]]


class ActionMode(enum.Enum):
  """When an action runs: after a stretch of steps, or after an evaluation."""

  TRAIN = 1
  TRAIN_EVAL = 2
  INFER_EVAL = 3


class BaseAction(abc.ABC):
  """What is shown a run's metrics, and may end the run."""

  @abc.abstractmethod
  def run(
    self,
    train_state: train_state_lib.TrainState,
    metrics_by_task: MetricsByTask,
  ) -> bool:
    """Returns whether training is to stop."""


Actions = Mapping[ActionMode, Sequence[BaseAction]]


class EarlyStoppingAction(BaseAction):
  """Stops when a metric has not become better for some time.

  With a metric m_1, m_2, ... to be made small, m_{i+1} is better than m_i if

    m_{i+1} < m_i - (atol + rtol |m_i|),

  and training stops after `patience` values of which none is better than the
  one before it: slow progress too counts as none. To be made large: the same
  with the signs turned.
  """

  def __init__(
    self,
    metric: tuple[str, str],
    mode: str,
    patience: int = 3,
    atol: float = 0.0,
    rtol: float = 0.0,
  ):
    """Names the metric and what counts as better.

    Args:
      metric: a task's name and a metric's.
      mode: 'min' or 'max', what the metric should do.
      patience: how many values in a row must show no progress.
      atol: least absolute change that is progress.
      rtol: the same, relative to the value before.

    Raises:
      ValueError: another mode, a negative tolerance, or less than two values.
    """
    if mode not in ('min', 'max'):
      raise ValueError(
        f"EarlyStoppingAction.mode is {mode!r}; use 'min' or 'max'"
      )
    for name, value in (('atol', atol), ('rtol', rtol)):
      if value < 0:
        raise ValueError(
          f'EarlyStoppingAction.{name} is {value}; it must be at least 0'
        )
    if patience < 2:
      raise ValueError(
        f'EarlyStoppingAction.patience is {patience}; progress shows between '
        'two values: set it to at least 2'
      )
    self._task, self._metric = metric
    self._sign = 1 if mode == 'min' else -1
    self._atol, self._rtol = atol, rtol
    self._history = collections.deque(maxlen=patience)

  def run(
    self,
    train_state: train_state_lib.TrainState,
    metrics_by_task: MetricsByTask,
  ) -> bool:
    value = _find(self, self._task, self._metric, metrics_by_task)
    if value is None:
      return False
    self._history.append(value)
    if len(self._history) < self._history.maxlen:
      return False
    pairs = itertools.pairwise(self._history)
    if any(self._is_better(new, old) for old, new in pairs):
      return False
    logging.warning(
      '%s of %s is no better than before: %s; training stops',
      self._metric,
      self._task,
      ', '.join(f'{value:g}' for value in self._history),
    )
    return True

  def _is_better(self, new: float, old: float) -> bool:
    least = self._atol + self._rtol * abs(old)
    return self._sign * new < self._sign * old - least


class TerminateOnNanAction(BaseAction):
  """Stops when a metric is NaN or infinite.

  On the loss or the gradients' norm of 'train', where the run would otherwise
  end with an error, it ends as by any other action: exit code 0, and a state
  that is no number is not saved.
  """

  def __init__(self, task: str, metric: str = 'loss'):
    self._task = task
    self._metric = metric

  def run(
    self,
    train_state: train_state_lib.TrainState,
    metrics_by_task: MetricsByTask,
  ) -> bool:
    value = _find(self, self._task, self._metric, metrics_by_task)
    if value is None or math.isfinite(value):
      return False
    logging.warning(
      '%s of %s is %s; training stops', self._metric, self._task, value
    )
    return True


def parse_actions(
  actions: Mapping[str, Sequence[BaseAction]] | None,
) -> Actions:
  """Returns gin's actions, their moments as `ActionMode`.

  Raises:
    ValueError: a key that is no moment.
  """
  actions = actions or {}
  for name in actions:
    if name not in ActionMode.__members__:
      raise ValueError(
        f'train.actions has the key {name!r}; use one of '
        f'{", ".join(ActionMode.__members__)}'
      )
  return {ActionMode[name]: list(some) for name, some in actions.items()}


def run_actions(
  mode: ActionMode,
  actions: Actions,
  train_state: train_state_lib.TrainState,
  metrics_by_task: MetricsByTask,
) -> bool:
  """Runs all actions of a moment; returns whether any wants to stop."""
  # No shortcut: each action must see every value.
  wishes = [
    action.run(train_state, metrics_by_task) for action in actions.get(mode, ())
  ]
  return any(wishes)


def _find(
  action: BaseAction, task: str, metric: str, metrics_by_task: MetricsByTask
) -> float | None:
  """Returns a metric's value; None, and a warning, if it is not a number."""
  name = type(action).__name__
  if task not in metrics_by_task:
    logging.warning(
      '%s does nothing: there is no task %r, but %s',
      name,
      task,
      ', '.join(metrics_by_task),
    )
    return None
  if metric not in metrics_by_task[task]:
    logging.warning(
      '%s does nothing: %s has no metric %r, but %s',
      name,
      task,
      metric,
      ', '.join(metrics_by_task[task]),
    )
    return None
  value = metrics_by_task[task][metric]
  if isinstance(value, clu.values.Scalar):
    value = value.value
  elif not isinstance(value, float | np.floating):
    logging.warning(
      '%s does nothing: %s of %s is no scalar but a %s',
      name,
      metric,
      task,
      type(value).__name__,
    )
    return None
  return float(value)
