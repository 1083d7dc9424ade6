"""Actions: when they stop a run, and that runs heed them.

The expected answers are worked out by hand from the docstrings' formulas.
"""

import math

import clu.values
import gin
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
from absl import logging

from fnet_t5x.compat import train as compat_train
from fnet_t5x.runtime import actions, checkpoints, reporting, train, trainer

TASK, METRIC = 'a_task', 'a_metric'


def shown(action, values) -> list[bool]:
  """What the action says to one value after the other."""
  return [action.run(None, {TASK: {METRIC: value}}) for value in values]


def early_stopping(mode='min', **changes):
  return trainer.EarlyStoppingAction((TASK, METRIC), mode=mode, **changes)


@pytest.fixture
def warnings(monkeypatch):
  """The texts of the warnings logged."""
  said = []
  monkeypatch.setattr(
    logging, 'warning', lambda text, *args: said.append(text % args)
  )
  return said


@pytest.mark.parametrize(
  ('mode', 'changes', 'values', 'stops_at'),
  [
    ('min', {}, [3.0, 2.0, 1.0, 0.5], None),
    ('min', {}, [3.0, 3.0, 3.0], 2),
    # One better value in the window is enough to go on.
    ('min', {}, [3.0, 4.0, 3.5, 3.6, 3.7], 4),
    ('max', {}, [1.0, 2.0, 1.5, 1.25], 3),
    ('max', {'patience': 2}, [1.0, 0.5], 1),
    ('min', {'patience': 4}, [1.0, 1.0, 1.0, 1.0], 3),
    # 0.25 a step is progress of no more than the tolerance.
    ('min', {'atol': 0.25}, [2.0, 1.75, 1.5], 2),
    ('max', {'atol': 0.125}, [2.0, 2.25, 2.5], None),
    # 1/8 of 16 is 2; of -16 too: the tolerance has no sign.
    ('max', {'rtol': 0.125}, [16.0, 17.0, 18.0], 2),
    ('max', {'rtol': 0.125}, [-16.0, -13.0, -11.0], None),
    ('min', {'rtol': 0.125, 'atol': 1.0}, [-16.0, -18.5, -21.0], 2),
  ],
)
def test_early_stopping(mode, changes, values, stops_at, warnings):
  answers = shown(early_stopping(mode, **changes), values)
  expected = [i == stops_at for i in range(len(values))]
  assert answers == expected
  assert len(warnings) == (stops_at is not None)


def test_early_stopping_reads_what_evaluations_give():
  values = [clu.values.Scalar(1.0), np.float32(1.0), clu.values.Scalar(1)]
  assert shown(early_stopping(), values) == [False, False, True]


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'mode': 'least'}, "mode is 'least'; use 'min' or 'max'"),
    ({'atol': -1.0}, 'atol is -1.0'),
    ({'rtol': -0.5}, 'rtol is -0.5'),
    ({'patience': 1}, 'patience is 1'),
  ],
)
def test_early_stopping_refuses_what_makes_no_sense(changes, message):
  with pytest.raises(ValueError, match=message):
    early_stopping(**changes)


@pytest.mark.parametrize(
  ('value', 'stops'),
  [
    (1.0, False),
    (clu.values.Scalar(-3.0), False),
    (math.nan, True),
    (clu.values.Scalar(np.float32('nan')), True),
    (clu.values.Scalar(-math.inf), True),
  ],
)
def test_terminate_on_nan(value, stops):
  assert shown(trainer.TerminateOnNanAction(TASK, METRIC), [value]) == [stops]


@pytest.mark.parametrize(
  'action',
  [early_stopping(patience=2), trainer.TerminateOnNanAction(TASK, METRIC)],
  ids=['early_stopping', 'terminate_on_nan'],
)
@pytest.mark.parametrize(
  ('metrics', 'warning'),
  [
    ({'another': {METRIC: math.nan}}, "no task 'a_task', but another"),
    ({TASK: {'another': math.nan}}, "no metric 'a_metric', but another"),
    ({TASK: {METRIC: 'text'}}, 'no scalar but a str'),
    ({TASK: {METRIC: 3}}, 'no scalar but a int'),
  ],
)
def test_action_that_finds_no_number_warns(action, metrics, warning, warnings):
  for _ in range(3):
    assert not action.run(None, metrics)
  assert warning in warnings[0]


def test_every_action_sees_every_value():
  first, second = (early_stopping(patience=2) for _ in range(2))
  parsed = actions.parse_actions({'TRAIN_EVAL': [first, second]})
  for value, stops in ((1.0, False), (1.0, True)):
    assert stops == actions.run_actions(
      actions.ActionMode.TRAIN_EVAL, parsed, None, {TASK: {METRIC: value}}
    )
  # The second would not stop, had the first kept the last value from it.
  assert second.run(None, {TASK: {METRIC: 1.0}})
  assert not actions.run_actions(
    actions.ActionMode.INFER_EVAL, parsed, None, {TASK: {METRIC: 1.0}}
  )


class Recording(trainer.BaseAction):
  """Remembers what it was shown."""

  def __init__(self):
    self.seen = {}

  def run(self, train_state, metrics_by_task):
    self.seen[int(train_state.step)] = metrics_by_task
    return False


def run(model_dir, **changes) -> int:
  return train.train(**small_runs.train_arguments(model_dir, **changes))


def test_action_ends_a_run_that_has_then_saved(tmp_path, capfd):
  stop = trainer.EarlyStoppingAction(
    (small_runs.TASK, 'loss'), mode='min', patience=2
  )
  steps, inferred = Recording(), Recording()
  code = run(
    tmp_path,
    # The loss stays as it is.
    learning_rate_fn=lambda step: 0.0,
    eval_period=2,
    infer_eval_dataset_cfg=small_runs.dataset_config('validation'),
    save=checkpoints.SaveCheckpointConfig(period=100),
    actions={'TRAIN': [steps], 'TRAIN_EVAL': [stop], 'INFER_EVAL': [inferred]},
    concurrent_metrics=False,
  )
  assert code == 0
  assert 'stopped by an action at step 4' in capfd.readouterr().out
  assert checkpoints.latest_step(str(tmp_path)) == 4
  rows = reporting.read_metrics(tmp_path)
  evaluated = [r['step'] for r in rows if 'training_eval' in r['collection']]
  assert evaluated == [2, 4]
  losses = {r['step']: r['loss'] for r in rows if r['collection'] == 'train'}
  assert list(steps.seen) == [1, 2, 3, 4] == list(losses)
  for step, metrics in steps.seen.items():
    assert metrics['train']['loss'].value == pytest.approx(losses[step])
  # The evaluation that stops the run is whole all the same.
  scores = {
    r['step']: r['mean_score'] for r in rows if 'inference' in r['collection']
  }
  assert inferred.seen == {
    step: {small_runs.TASK: {'mean_score': score}}
    for step, score in scores.items()
  }
  assert list(scores) == [2, 4]


@pytest.mark.parametrize('metric', ['loss', 'grad_norm'])
def test_an_action_may_stop_at_a_loss_that_is_no_number(
  metric, tmp_path, capfd, warnings
):
  """Without the action the run ends with an error: train_test.py."""
  code = run(
    tmp_path,
    # Update 6 spoils the parameters, step 7's loss shows it.
    learning_rate_fn=lambda step: jnp.where(step == 5, jnp.nan, 0.1),
    actions={'TRAIN': [trainer.TerminateOnNanAction('train', metric)]},
    concurrent_metrics=False,
  )
  assert code == 0
  said = capfd.readouterr().out
  assert 'stopped by an action at step 7' in said
  assert 'not saved, as a parameter or optimizer state is no finite' in said
  assert 'the checkpoint of step 5 is kept' in said
  assert warnings[-1] == f'{metric} of train is nan; training stops'
  assert checkpoints.latest_step(str(tmp_path)) == 5
  # The row of the step is there for who looks for the cause.
  rows = reporting.read_metrics(tmp_path)
  last = [r for r in rows if r['collection'] == 'train'][-1]
  assert last['step'] == 7 and last['loss'] is None


def test_unknown_moment_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r"'EVAL'; use one of TRAIN, TRAIN_EVAL"):
    run(tmp_path / 'model', actions={'EVAL': [Recording()]})
  assert not (tmp_path / 'model').exists()


def test_gin_files_name_actions_as_in_t5x():
  gin.parse_config("""
    from __gin__ import dynamic_registration
    from fnet_t5x.compat import train
    from fnet_t5x.compat import trainer

    train.train.actions = {'TRAIN_EVAL': [@trainer.TerminateOnNanAction()]}
    trainer.TerminateOnNanAction:
      task = 'a_task'
      metric = 'a_metric'
  """)
  try:
    [action] = gin.get_bindings(compat_train.train)['actions']['TRAIN_EVAL']
  finally:
    gin.clear_config()
  assert shown(action, [clu.values.Scalar(math.nan)]) == [True]
