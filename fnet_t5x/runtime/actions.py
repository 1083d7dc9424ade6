"""What a run may do with its own metrics: stop early, or at a NaN.

`train.actions` maps a moment to actions; each is shown the metrics of that
moment, task by task, and says whether training is to stop:

    train.actions = {'TRAIN_EVAL': [@trainer.EarlyStoppingAction()]}
"""

import abc
import collections
import enum
import itertools
import math
from collections.abc import Mapping, Sequence

import clu.values
import numpy as np
from absl import logging

from fnet_t5x.runtime import train_state as train_state_lib

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
