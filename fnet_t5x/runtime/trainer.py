"""Trainer with gradient accumulation, and actions that can stop a run.

`train.actions` maps each mode to its actions. An action receives the metrics by
task, and returns whether to stop training:

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
from fnet_t5x.runtime.weight_metrics import WeightMetricsComputer

Batch = Mapping[str, jax.Array]
LearningRate = Callable[[Int[Array, '']], Float[Array, '']]


class Trainer:
  """Holds the train state, and trains it on batches.

  The dropout key of a step is `fold_in(rng, step)`, as in T5X, so that a
  resumed run uses the keys of an uninterrupted one.

  Attributes:
    train_state: parameters, optimizer state and step, on the mesh.
    num_microbatches: microbatches per batch; None or 1 for no accumulation.
    flops_per_step: FLOPs of a training step over all devices, by the formulas
      of `costs.flops`: independent of scanning, microbatches and remat. None
      before `compile_train`, and for a network without a formula.
    stop_training: if set, for example by a signal handler, `train` returns
      after the current step, and `eval` after the current batch.
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
    weight_metrics_computer: WeightMetricsComputer | None = None,
  ):
    """Initializes the trainer; T5X's arguments.

    Args:
      model: computes the loss.
      train_state: the initial state.
      partitioner: shards state and batches over the mesh.
      eval_names: ignored.
      summary_dir: ignored; T5X's trainer writes its own summaries.
      train_state_axes: partition specs of the state.
      rng: key of dropout.
      learning_rate_fn: learning rate by step.
      num_microbatches: microbatches per batch.
      weight_metrics_computer: computes further metrics of each step; None for
        none.
    """
    del eval_names, summary_dir
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
      weight_metrics_computer=weight_metrics_computer,
    )
    self._model = model
    self._partitioner = partitioner
    self.num_microbatches = num_microbatches
    self._train_step = partitioner.partition(
      train_step,
      in_axis_resources=(train_state_axes, spec),
      out_axis_resources=(train_state_axes, None),
      donate_argnums=(0,),
    )
    self._eval_step = partitioner.partition(
      functools.partial(eval_step, model),
      in_axis_resources=(train_state_axes, spec),
      out_axis_resources=None,
    )
    self._compiled_eval_steps: dict[Any, jax.stages.Compiled] = {}

  def compile_train(self, batch: Batch) -> jax.stages.Compiled:
    """Compiles the training step for batches with the given batch's shapes.

    Batch and state may consist of `jax.ShapeDtypeStruct`s.
    """
    self._train_step = self._partitioner.compile(
      self._train_step, self.train_state, batch
    )
    # Not the compiler's count, which counts the body of a loop (over layers or
    # microbatches) only once.
    config = getattr(getattr(self._model, 'module', None), 'config', None)
    self.flops_per_step = flops.batch_flops(config, batch, current_backend())
    return self._train_step

  def compile_eval(
    self, batches: Mapping[str, Batch]
  ) -> Mapping[str, jax.stages.Compiled]:
    """Compiles the evaluation step, so that `eval` need not.

    Args:
      batches: a batch of each task, by name; tasks with batches of the same
        shapes share a program. They may consist of `jax.ShapeDtypeStruct`s.

    Returns:
      The program of each task.
    """
    programs = {}
    for task, batch in batches.items():
      shapes = _shapes(batch)
      if shapes not in self._compiled_eval_steps:
        self._compiled_eval_steps[shapes] = self._partitioner.compile(
          self._eval_step, self.train_state, batch
        )
      programs[task] = self._compiled_eval_steps[shapes]
    return programs

  def train(
    self, batches: Iterator[Batch], num_steps: int
  ) -> tuple[metrics_lib.MetricsMap, int]:
    """Runs up to `num_steps` training steps.

    Returns:
      The merged metrics of the steps, with their duration, and the number of
      steps: fewer than `num_steps` if `stop_training` was set.
    """
    jax.block_until_ready(self.train_state)
    start = time.perf_counter()
    metrics, taken = None, 0
    while taken < num_steps and not self.stop_training:
      self.train_state, update = self._train_step(
        self.train_state, next(batches)
      )
      # Two steps in flight keep a device busy; more would delay stopping.
      jax.block_until_ready(metrics)
      metrics = update if metrics is None else _merge(metrics, update)
      taken += 1
    if metrics is None:
      return {}, 0
    metrics = jax.device_get(metrics)
    return _timed(metrics, time.perf_counter() - start, taken), taken

  def eval(self, batches: Iterable[Batch]) -> metrics_lib.MetricsMap:
    """Returns the merged metrics of the batches, without dropout.

    Empty if there are no batches or `stop_training` was set.
    """
    start = time.perf_counter()
    metrics, taken = None, 0
    for batch in batches:
      if self.stop_training:
        return {}
      step = self._compiled_eval_steps.get(_shapes(batch), self._eval_step)
      update = step(self.train_state, batch)
      metrics = update if metrics is None else _merge(metrics, update)
      taken += 1
    if metrics is None:
      return {}
    metrics = jax.device_get(metrics)
    return _timed(metrics, time.perf_counter() - start, taken)

  def close(self) -> None:
    """Waits for the steps in flight; their errors are raised here."""
    jax.block_until_ready(self.train_state)


def eval_step(
  model: models.BaseModel,
  train_state: train_state_lib.TrainState,
  batch: Batch,
) -> metrics_lib.MetricsMap:
  """Returns the metrics of one batch, without dropout."""
  return model.eval_fn(train_state.params, batch)[1]


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
    model: computes the loss.
    train_state: has the parameters.
    batch: arrays with a leading axis of examples.
    dropout_rng: key of the step; each microbatch uses a split of it.
    num_microbatches: microbatches per batch; None or 1 for no accumulation.
    data_partition_spec: sharding of a microbatch.

  Raises:
    ValueError: the batch size is not divisible by the microbatches.
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
  weight_metrics_computer: WeightMetricsComputer | None,
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
  if weight_metrics_computer:
    metrics = {
      **metrics,
      **weight_metrics_computer.compute_metrics(grads, train_state, new_state),
    }
  last = clu_metrics.LastValue.from_model_output
  average = clu_metrics.Average.from_model_output
  return new_state, {
    **metrics,
    'learning_rate/current': last(jnp.asarray([learning_rate])),
    'grad_norm': average(optax.tree.norm(grads)[None]),
  }


def _shapes(batch: Batch) -> frozenset[tuple[str, tuple[int, ...], Any]]:
  """Returns what a program depends on: names, shapes and dtypes."""
  return frozenset((k, tuple(x.shape), x.dtype) for k, x in batch.items())


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


# Metrics by task, then by name. Training itself is the task 'train'.
MetricsByTask = Mapping[str, Mapping[str, clu.values.Value | float]]


class ActionMode(enum.Enum):
  """When an action runs: after a report of training, or after an evaluation."""

  TRAIN = 1
  TRAIN_EVAL = 2
  INFER_EVAL = 3


class BaseAction(abc.ABC):
  """Hook that receives the metrics of a run, and can stop it."""

  @abc.abstractmethod
  def run(
    self,
    train_state: train_state_lib.TrainState,
    metrics_by_task: MetricsByTask,
  ) -> bool:
    """Returns whether to stop training."""


Actions = Mapping[ActionMode, Sequence[BaseAction]]


class EarlyStoppingAction(BaseAction):
  """Stops training when a metric no longer improves.

  In mode 'min', the value m_{i+1} is an improvement over m_i if

    m_{i+1} < m_i - (atol + rtol |m_i|),

  and training stops after `patience` values of which none improves on its
  predecessor: progress below the tolerance does not count. In mode 'max', the
  signs are reversed.
  """

  def __init__(
    self,
    metric: tuple[str, str],
    mode: str,
    patience: int = 3,
    atol: float = 0.0,
    rtol: float = 0.0,
  ):
    """Initializes the action.

    Args:
      metric: names of the task and the metric.
      mode: 'min' if a smaller metric is better, 'max' if a larger one is.
      patience: consecutive values without improvement that stop training.
      atol: minimum absolute improvement.
      rtol: minimum improvement relative to the previous value.

    Raises:
      ValueError: invalid mode, negative tolerance, or `patience` below 2.
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
        f'EarlyStoppingAction.patience is {patience}; it must be at '
        'least 2, as an improvement is over the previous value'
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
      '%s of %s no longer improves: %s; stopping training',
      self._metric,
      self._task,
      ', '.join(f'{value:g}' for value in self._history),
    )
    return True

  def _is_better(self, new: float, old: float) -> bool:
    minimum = self._atol + self._rtol * abs(old)
    return self._sign * new < self._sign * old - minimum


class TerminateOnNanAction(BaseAction):
  """Stops training when a metric is NaN or infinite.

  Without it, a loss or gradient norm of 'train' that is not finite ends the run
  with an error. With it, the run ends as by any other action, with exit code 0.
  In neither case is a state saved that is not finite.
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
      '%s of %s is %s; stopping training', self._metric, self._task, value
    )
    return True


def parse_actions(
  actions: Mapping[str, Sequence[BaseAction]] | None,
) -> Actions:
  """Returns actions by `ActionMode`, from gin's by name.

  Raises:
    ValueError: a key is not the name of an `ActionMode`.
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
  """Runs all actions of a mode; returns whether any stops training."""
  # A list, as `any` would stop at the first: every action must see each value.
  stops = [
    action.run(train_state, metrics_by_task) for action in actions.get(mode, ())
  ]
  return any(stops)


def _find(
  action: BaseAction, task: str, metric: str, metrics_by_task: MetricsByTask
) -> float | None:
  """Returns a metric's value; warns and returns None if there is no scalar."""
  name = type(action).__name__
  if task not in metrics_by_task:
    logging.warning(
      '%s does nothing: there is no task %r; there is %s',
      name,
      task,
      ', '.join(metrics_by_task),
    )
    return None
  if metric not in metrics_by_task[task]:
    logging.warning(
      '%s does nothing: %s has no metric %r; it has %s',
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
      '%s does nothing: %s of %s is not a scalar but a %s',
      name,
      metric,
      task,
      type(value).__name__,
    )
    return None
  return float(value)
