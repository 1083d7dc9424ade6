"""Trainer: microbatches, merged metrics, reports of a step, and actions.

The steps at which actions stop a run are computed by hand from the formulas in
their docstrings.
"""

import math
import types

import clu.values
import gin
import gin_commands
import jax
import jax.numpy as jnp
import numpy as np
import planned_runs
import pytest
import small_runs
from absl import logging
from checkout import ROOT
from flax import traverse_util

from fnet_t5x.compat import train as compat_train
from fnet_t5x.planning import gin_run, plan, topology
from fnet_t5x.runtime import (
  checkpoints,
  partitioning,
  reporting,
  train,
  trainer,
)
from fnet_t5x.runtime import metrics as metrics_lib


@pytest.fixture(scope='module')
def batch():
  return small_runs.packed_batch(seed=7)


@pytest.fixture(scope='module')
def model():
  return small_runs.make_model(loss_normalizing_factor=None, z_loss=1e-4)


@pytest.fixture(scope='module')
def state(model, batch):
  return small_runs.make_trainer(
    model, small_runs.one_device(), batch
  ).train_state


def gradients(model, state, batch, partitioner, num_microbatches):
  """Returns gradients by name, and the values of the merged metrics."""
  spec = partitioner.data_partition_spec

  def accumulate(params, batch):
    return trainer.accumulate_grads_microbatched(
      model,
      state.replace_params(params),
      batch,
      jax.random.PRNGKey(0),
      num_microbatches,
      spec,
    )

  grads, metrics = partitioner.partition(accumulate, (None, spec), None)(
    jax.device_get(state.params), batch
  )
  metrics = trainer._timed(jax.device_get(metrics), seconds=2.0, steps=1)
  return (
    traverse_util.flatten_dict(jax.device_get(grads), sep='/'),
    metrics_lib.scalars(metrics),
  )


@pytest.fixture(scope='module')
def whole(model, state, batch):
  """Returns gradients and metrics without microbatches, on one device."""
  return gradients(model, state, batch, small_runs.one_device(), None)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('num_microbatches', 'num_partitions'), [(4, None), (2, 2)]
)
def test_microbatches_sum_to_the_batch(
  model, state, batch, whole, num_microbatches, num_partitions
):
  partitioner = (
    partitioning.PjitPartitioner(num_partitions)
    if num_partitions
    else small_runs.one_device()
  )
  split = gradients(model, state, batch, partitioner, num_microbatches)
  assert split[0].keys() == whole[0].keys()
  for name, expected in whole[0].items():
    scale = np.abs(expected).max()
    assert scale > 0, name
    np.testing.assert_allclose(
      split[0][name] / scale, expected / scale, atol=2e-5, err_msg=name
    )
  assert split[1].keys() == whole[1].keys()
  for name, expected in whole[1].items():
    np.testing.assert_allclose(
      split[1][name], expected, rtol=1e-4, err_msg=name
    )


def test_microbatches_have_distinct_keys(batch):
  """The key of a step is folded in; that of a microbatch is a split."""
  seen = []

  class Recorder:
    def loss_fn(self, params, batch, dropout_rng):
      jax.debug.callback(
        lambda key: seen.append(np.asarray(key).tolist()), dropout_rng
      )
      return params['w'] * 1.0, {'loss': metrics_lib.Sum(params['w'])}

  state = types.SimpleNamespace(params={'w': jnp.ones(())})
  partitioner = small_runs.one_device()
  key = jax.random.PRNGKey(5)
  partitioner.partition(
    lambda batch: trainer.accumulate_grads_microbatched(
      Recorder(), state, batch, key, 2, partitioner.data_partition_spec
    ),
    (None,),
    None,
  )(batch)
  jax.effects_barrier()
  expected = []
  for _ in range(2):
    key, part = jax.random.split(key)
    expected.append(part.tolist())
  assert sorted(seen) == sorted(expected)


def test_microbatches_must_divide_the_batch(model, state, batch):
  with pytest.raises(ValueError, match=r'8 is not divisible by .* 3'):
    gradients(model, state, batch, small_runs.one_device(), 3)


def test_metrics_of_steps_merge_to_averages():
  """Metrics of one report of four steps are the mean of four reports."""
  model = small_runs.bigram_model(
    loss_normalizing_factor='NUM_REAL_TARGET_TOKENS'
  )
  batches = [small_runs.packed_batch(seed) for seed in range(4)]

  def rate(step):
    return 0.1 * (step + 1)

  def make():
    return small_runs.make_trainer(
      model, small_runs.one_device(), batches[0], learning_rate_fn=rate
    )

  single, merged = make(), make()
  rows = [
    metrics_lib.scalars(single.train(iter([batch]), 1)[0]) for batch in batches
  ]
  metrics, taken = merged.train(iter(batches), 4)
  assert taken == 4 and int(merged.train_state.step) == 4
  values = metrics_lib.scalars(metrics)
  for name in ('loss', 'grad_norm'):
    mean = np.mean([row[name] for row in rows])
    assert values[name] == pytest.approx(mean, rel=1e-5), name
  assert values['learning_rate/current'] == pytest.approx(0.4)
  tokens = [batch['decoder_loss_weights'].sum() for batch in batches]
  for name in ('cross_ent_per_target_token', 'accuracy'):
    weighted = np.average([row[name] for row in rows], weights=tokens)
    assert values[name] == pytest.approx(weighted, rel=1e-5), name
  seconds = values['timing/seconds']
  assert values['timing/steps_per_second'] == pytest.approx(4 / seconds)
  assert values['timing/seqs'] == 32


def test_grad_norm_is_that_of_the_gradients(batch):
  model = small_runs.bigram_model(dropout_rate=0.0)
  made = small_runs.make_trainer(model, small_runs.one_device(), batch)
  params = jax.device_get(made.train_state.params)
  grads = jax.grad(lambda p: model.loss_fn(p, batch, None)[0])(params)
  values = metrics_lib.scalars(made.train(iter([batch]), 1)[0])
  squares = np.sum(np.square(np.float64(grads['table'])))
  assert values['grad_norm'] == pytest.approx(np.sqrt(squares), rel=1e-5)


def test_stop_ends_training_after_the_current_step():
  batches = [small_runs.packed_batch(seed) for seed in range(4)]
  made = small_runs.make_trainer(
    small_runs.bigram_model(), small_runs.one_device(), batches[0]
  )

  def stopping():
    yield batches[0]
    made.stop_training = True
    yield batches[1]
    raise AssertionError('a batch was taken after the stop')

  _, taken = made.train(stopping(), 4)
  assert taken == 2 and int(made.train_state.step) == 2
  assert made.train(iter(batches), 4) == ({}, 0)


def test_evaluation_is_compiled_ahead_once_per_shape(batch):
  made = small_runs.make_trainer(
    small_runs.bigram_model(), small_runs.one_device(), batch
  )
  want = metrics_lib.values(made.eval([batch]))['loss']
  half = {name: x[: x.shape[0] // 2] for name, x in batch.items()}
  programs = made.compile_eval({'a': batch, 'b': dict(batch), 'c': half})
  assert programs['a'] is programs['b'] and programs['a'] is not programs['c']
  # The programs are all that `eval` needs for these shapes.
  made._eval_step = None
  assert metrics_lib.values(made.eval([batch]))['loss'] == want
  with pytest.raises(TypeError, match='not callable'):
    made.eval([{name: x[:1] for name, x in batch.items()}])


def test_closing_a_trainer_waits_for_its_steps(batch):
  made = small_runs.make_trainer(
    small_runs.bigram_model(), small_runs.one_device(), batch
  )
  waits = []

  class Pending:
    def block_until_ready(self):
      waits.append(True)
      raise RuntimeError('a step failed')

  made.train_state = Pending()
  with pytest.raises(RuntimeError, match='a step failed'):
    made.close()
  assert waits


WIDE = (
  'EMBED_DIM = 96',
  'MLP_DIM = 512',
  'NUM_ENCODER_LAYERS = 3',
  'NUM_DECODER_LAYERS = 2',
  "TASK_FEATURE_LENGTHS = {'inputs': 16, 'targets': 8}",
)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('scan', 'remat', 'num_microbatches'),
  [(False, 'none', None), (True, 'none', 4), (True, 'full', None)],
)
def test_flops_are_the_planners(scan, remat, num_microbatches):
  bindings = (
    *planned_runs.SMALL,
    *WIDE,
    f'SCAN_LAYERS = {scan}',
    f'REMAT_POLICY = {remat!r}',
    f'NUM_MICROBATCHES = {num_microbatches}',
  )
  with (
    gin_commands.of_main(gin_run.train),
    gin_run.configured(planned_runs.FILES, bindings, [str(ROOT)]) as run,
  ):
    made = None

    def kept(**arguments):
      nonlocal made
      made = trainer_cls(**arguments)
      return made

    trainer_cls, run.trainer_cls = run.trainer_cls, kept
    planned = plan.make_plan(
      'small', run, topology.parse('cpu:1'), decoding=False
    )
  assert made.flops_per_step == pytest.approx(planned.training_flops, rel=0.01)
  # The matrix products of the program, as often as each is executed.
  executed = planned.train.cost.flops
  if remat == 'none':
    assert made.flops_per_step == pytest.approx(executed, rel=0.03)
  else:
    # An additional forward pass, which is not counted as useful.
    assert 1.2 < executed / made.flops_per_step < 1.4


def test_network_without_a_formula_has_no_flops(batch):
  made = small_runs.make_trainer(
    small_runs.bigram_model(), small_runs.one_device(), batch
  )
  made.compile_train(batch)
  assert made.flops_per_step is None


TASK, METRIC = 'a_task', 'a_metric'


def shown(action, values) -> list[bool]:
  """Returns whether the action stops after each of several values."""
  return [action.run(None, {TASK: {METRIC: value}}) for value in values]


def early_stopping(mode='min', **changes):
  return trainer.EarlyStoppingAction((TASK, METRIC), mode=mode, **changes)


@pytest.fixture
def warnings(monkeypatch):
  """Returns the logged warnings."""
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
    # One improvement within the window is enough to continue.
    ('min', {}, [3.0, 4.0, 3.5, 3.6, 3.7], 4),
    ('max', {}, [1.0, 2.0, 1.5, 1.25], 3),
    ('max', {'patience': 2}, [1.0, 0.5], 1),
    ('min', {'patience': 4}, [1.0, 1.0, 1.0, 1.0], 3),
    # 0.25 per value is no more than the tolerance.
    ('min', {'atol': 0.25}, [2.0, 1.75, 1.5], 2),
    ('max', {'atol': 0.125}, [2.0, 2.25, 2.5], None),
    # 1/8 of 16 is 2; the same for -16: the tolerance is of the magnitude.
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


def test_early_stopping_reads_evaluation_metrics():
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
def test_early_stopping_refuses_invalid_arguments(changes, message):
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
    ({'another': {METRIC: math.nan}}, "no task 'a_task'; there is another"),
    ({TASK: {'another': math.nan}}, "no metric 'a_metric'; it has another"),
    ({TASK: {METRIC: 'text'}}, 'not a scalar but a str'),
    ({TASK: {METRIC: 3}}, 'not a scalar but a int'),
  ],
)
def test_action_without_a_scalar_warns(action, metrics, warning, warnings):
  for _ in range(3):
    assert not action.run(None, metrics)
  assert warning in warnings[0]


def test_every_action_sees_every_value():
  first, second = (early_stopping(patience=2) for _ in range(2))
  parsed = trainer.parse_actions({'TRAIN_EVAL': [first, second]})
  for value, stops in ((1.0, False), (1.0, True)):
    assert stops == trainer.run_actions(
      trainer.ActionMode.TRAIN_EVAL, parsed, None, {TASK: {METRIC: value}}
    )
  # The second action would not stop if it had not seen the last value.
  assert second.run(None, {TASK: {METRIC: 1.0}})
  assert not trainer.run_actions(
    trainer.ActionMode.INFER_EVAL, parsed, None, {TASK: {METRIC: 1.0}}
  )


class Recording(trainer.BaseAction):
  """Records the metrics it receives."""

  def __init__(self):
    self.seen = {}

  def run(self, train_state, metrics_by_task):
    self.seen[int(train_state.step)] = metrics_by_task
    return False


def run(model_dir, **changes) -> int:
  return train.train(**small_runs.train_arguments(model_dir, **changes))


@pytest.mark.slow
def test_action_stops_and_saves_a_run(tmp_path, capfd):
  stop = trainer.EarlyStoppingAction(
    (small_runs.TASK, 'loss'), mode='min', patience=2
  )
  steps, inferred = Recording(), Recording()
  code = run(
    tmp_path,
    # The loss is constant.
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
  # The evaluation that stops the run is complete nevertheless.
  scores = {
    r['step']: r['mean_score'] for r in rows if 'inference' in r['collection']
  }
  assert inferred.seen == {
    step: {small_runs.TASK: {'mean_score': score}}
    for step, score in scores.items()
  }
  assert list(scores) == [2, 4]


@pytest.mark.slow
@pytest.mark.parametrize('metric', ['loss', 'grad_norm'])
def test_action_stops_at_a_nan_loss(metric, tmp_path, capfd, warnings):
  """Without the action, the run ends with an error: see train_test.py."""
  code = run(
    tmp_path,
    # Update 6 makes the parameters NaN, and so the loss of step 7.
    learning_rate_fn=lambda step: jnp.where(step == 5, jnp.nan, 0.1),
    actions={'TRAIN': [trainer.TerminateOnNanAction('train', metric)]},
    concurrent_metrics=False,
  )
  assert code == 0
  said = capfd.readouterr().out
  assert 'stopped by an action at step 7' in said
  assert 'not saved: a parameter or optimizer state is not finite' in said
  assert 'the checkpoint of step 5 is kept' in said
  assert warnings[-1] == f'{metric} of train is nan; stopping training'
  assert checkpoints.latest_step(str(tmp_path)) == 5
  # The row of the step is written, for finding the cause.
  rows = reporting.read_metrics(tmp_path)
  last = [r for r in rows if r['collection'] == 'train'][-1]
  assert last['step'] == 7 and last['loss'] is None


def test_unknown_action_mode_is_refused(tmp_path):
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
