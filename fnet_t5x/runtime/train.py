"""The training run: data, state, steps, reports, checkpoints, evaluation."""

import contextlib
import functools
import itertools
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import seqio
import tensorflow as tf
from clu import metric_writers

from fnet_t5x import number_ranges, stop_signals
from fnet_t5x.runtime import (
  checkpoints,
  console,
  damaged_checkpoints,
  datasets,
  directory_lock,
  disk_space,
  feature_lengths,
  free_memory,
  garbage,
  models,
  partitioning,
  reporting,
  utils,
)
from fnet_t5x.runtime import eval as eval_lib
from fnet_t5x.runtime import metrics as metrics_lib
from fnet_t5x.runtime import train_state as train_state_lib
from fnet_t5x.runtime import trainer as trainer_lib

_NOT_FINITE = 'a parameter or optimizer state'


def train(
  *,
  model: models.BaseModel,
  train_dataset_cfg: datasets.DatasetConfig,
  train_eval_dataset_cfg: datasets.DatasetConfig | None,
  infer_eval_dataset_cfg: datasets.DatasetConfig | None = None,
  checkpoint_cfg: checkpoints.CheckpointConfig,
  partitioner: partitioning.PjitPartitioner,
  trainer_cls: Callable[..., trainer_lib.Trainer],
  model_dir: str,
  total_steps: int,
  eval_steps: int,
  eval_period: int,
  relative_steps: int | None = None,
  stats_period: int | None = None,
  random_seed: int | None,
  use_hardware_rng: bool = False,
  summarize_config_fn: Callable[
    [str, metric_writers.MetricWriter | None, int], None
  ],
  inference_evaluator_cls: Callable[..., seqio.Evaluator] = seqio.Evaluator,
  run_eval_before_training: bool = False,
  actions: Mapping[str, Sequence[trainer_lib.BaseAction]] | None = None,
  concurrent_metrics: bool = True,
  get_dataset_fn: Callable[..., tf.data.Dataset] = datasets.get_dataset,
  train_eval_get_dataset_fn: Callable[
    ..., Mapping[str, tf.data.Dataset]
  ] = datasets.get_training_eval_datasets,
  train_state_initializer_cls: Callable[
    ..., utils.TrainStateInitializer
  ] = utils.TrainStateInitializer,
  verify_matching_vocabs_fn: Callable[
    [datasets.DatasetConfig, models.BaseModel], None
  ]
  | None = datasets.verify_matching_vocabs,
  gc_period: int = 0,
  use_orbax: bool = True,
) -> int:
  """Trains a model; T5X's `train` with T5X's arguments.

  Args:
    model: computes the loss and predictions.
    train_dataset_cfg: the training data.
    train_eval_dataset_cfg: the data evaluated with teacher forcing.
    infer_eval_dataset_cfg: the data evaluated with predictions and SeqIO's
      metrics.
    checkpoint_cfg: what to save, and what to start from if `model_dir` has no
      checkpoint.
    partitioner: shards state and batches over the mesh.
    trainer_cls: constructs the trainer.
    model_dir: folder of checkpoints, configuration and metrics.
    total_steps: the last training step.
    eval_steps: batches per evaluation.
    eval_period: steps between evaluations.
    relative_steps: steps after the first one; replaces `total_steps`.
    stats_period: steps between reports; None for `eval_period`.
    random_seed: seed of initialization and dropout; None for the time.
    use_hardware_rng: whether this process generates random numbers by JAX's
      `unsafe_rbg`: faster on a TPU, other numbers on other meshes.
    summarize_config_fn: writes the configuration to `model_dir`.
    inference_evaluator_cls: constructs SeqIO's evaluator.
    run_eval_before_training: whether to evaluate the initial state, too.
    actions: actions that can stop the run, by when they run: after the steps
      of a report ('TRAIN'), or after an evaluation with teacher forcing
      ('TRAIN_EVAL') or predictions ('INFER_EVAL').
    concurrent_metrics: ignored. In T5X, actions of 'TRAIN' and 'INFER_EVAL'
      run only if it is False; here all actions run.
    get_dataset_fn: makes the training data.
    train_eval_get_dataset_fn: makes the data evaluated with teacher forcing.
    train_state_initializer_cls: constructs the initializer.
    verify_matching_vocabs_fn: raises an error if the vocabularies of a task and
      the model differ; None for no check.
    gc_period: training steps between runs of Python's garbage collector; 0
      leaves it to Python.
    use_orbax: must be True.

  Returns:
    The exit code: 0, 130 after Ctrl-C, or 143 after SIGTERM. If the run saves
    checkpoints, one has been saved in each case.

  Raises:
    ValueError: bad input, a loss that is not finite, or another run that uses
      `model_dir`.
    OSError: `model_dir` is not writable, or its disk is full.
  """
  del concurrent_metrics
  checkpoints.check_orbax(use_orbax)
  start = time.perf_counter()
  if use_hardware_rng:
    jax.config.update('jax_default_prng_impl', 'unsafe_rbg')
  if not isinstance(model_dir, str) or not model_dir:
    raise ValueError(f'MODEL_DIR is {model_dir!r}; choose a folder')
  _check_numbers(
    TRAIN_STEPS=total_steps,
    EVAL_STEPS=eval_steps,
    EVAL_PERIOD=eval_period,
    STATS_PERIOD=stats_period,
    SAVE_PERIOD=checkpoint_cfg.save and checkpoint_cfg.save.period,
    gc_period=gc_period,
  )
  actions = trainer_lib.parse_actions(actions)
  if random_seed is None:
    random_seed = int(time.time())
  init_rng, trainer_rng = jax.random.split(jax.random.PRNGKey(random_seed))

  save_cfg = checkpoint_cfg.save
  save_dataset = bool(save_cfg and save_cfg.save_dataset)
  datasets.get_mixture_or_task(train_dataset_cfg)
  partitioner.get_data_layout(train_dataset_cfg.batch_size)
  for cfg in (train_dataset_cfg, train_eval_dataset_cfg):
    if cfg and verify_matching_vocabs_fn:
      verify_matching_vocabs_fn(cfg, model)

  if infer_eval_dataset_cfg:
    infer_eval_dataset_cfg = feature_lengths.with_lengths(
      infer_eval_dataset_cfg,
      train_dataset_cfg.task_feature_lengths,
      measured=False,
    )

  def make_train_iter() -> datasets.DeviceIterator:
    return datasets.DeviceIterator(
      get_dataset_fn(train_dataset_cfg, 0, 1, model.FEATURE_CONVERTER_CLS),
      partitioner.get_shardings(partitioner.data_partition_spec),
    )

  train_iter = make_train_iter()
  initializer = train_state_initializer_cls(
    model.optimizer_def,
    model.get_initial_variables,
    {k: tuple(v.shape) for k, v in train_iter.element_spec.items()},
    partitioner,
    {k: v.dtype for k, v in train_iter.element_spec.items()},
  )
  # After all checks of input, so that bad input leaves no folder behind.
  reporting.check_writable(model_dir, 'MODEL_DIR')
  with directory_lock.held(model_dir), disk_space.exhaustion_named(model_dir):
    # Read under the lock: until now another run may have been saving.
    resume_step = checkpoints.latest_step(model_dir)
    console.print_line(f'model_dir: {model_dir}')
    if resume_step is not None:
      with console.waiting('restoring the checkpoint'):
        train_state, train_iter = _restore_last_readable(
          model_dir,
          functools.partial(initializer.from_checkpoint, init_rng=init_rng),
          itertools.chain([train_iter], iter(make_train_iter, None)),
          save_dataset,
        )
      console.print_line(f'resuming from step {int(train_state.step)}')
    elif checkpoint_cfg.restore and checkpoint_cfg.restore.path:
      restore = checkpoint_cfg.restore
      with console.waiting('restoring the checkpoint to start from'):
        train_state = initializer.from_checkpoint(
          restore, init_rng, train_iter if restore.restore_dataset else None
        )
      step = f'starting from step {int(train_state.step)} of'
      console.print_line(console.wrapped([step, restore.path]))
    else:
      with console.waiting('initializing the parameters'):
        train_state = initializer.from_scratch(init_rng)
    first_step = int(train_state.step)
    if relative_steps:
      total_steps = first_step + relative_steps
    if total_steps < first_step:
      raise ValueError(
        f'TRAIN_STEPS is {total_steps}, but the checkpoint is at step '
        f'{first_step}; raise TRAIN_STEPS, or use another MODEL_DIR'
      )
    parameters = utils.log_model_info(
      os.path.join(model_dir, 'model-info.txt'),
      initializer.global_train_state_shape,
      partitioner,
    )
    devices = f'{jax.device_count()} x {jax.devices()[0].device_kind}'
    mesh = ', '.join(
      f'{n}={size}' for n, size in partitioner.mesh.shape.items()
    )
    console.print_line(
      console.wrapped(
        [f'{parameters:,} parameters', f'devices: {devices}', f'mesh: {mesh}']
      )
    )

    trainer = trainer_cls(
      model=model,
      train_state=train_state,
      partitioner=partitioner,
      eval_names=(),
      summary_dir=model_dir,
      train_state_axes=initializer.train_state_axes,
      rng=trainer_rng,
    )
    del train_state
    reporter = reporting.Reporter(
      model_dir, total_steps, first_step, resumed=resume_step is not None
    )
    summarize_config_fn(model_dir, reporter.summary_writer, first_step)
    manager = None
    if save_cfg and (save_cfg.period or save_cfg.checkpoint_steps):
      manager = checkpoints.CheckpointManager(
        model_dir,
        save_cfg.keep,
        create=True,
        losses=reporter.losses,
      )
    run = TrainLoop(
      trainer=trainer,
      reporter=reporter,
      checkpoint_manager=manager,
      save_cfg=save_cfg,
      train_iter=train_iter,
      eval_datasets=_eval_datasets(
        train_eval_dataset_cfg,
        eval_steps,
        model,
        partitioner,
        train_eval_get_dataset_fn,
      ),
      evaluator=eval_lib.make_evaluator(
        infer_eval_dataset_cfg,
        inference_evaluator_cls,
        model,
        partitioner,
        initializer.train_state_axes,
        model_dir,
      ),
      total_steps=total_steps,
      stats_period=stats_period or eval_period or total_steps,
      eval_period=eval_period,
      actions=actions,
      target_text=eval_lib.TargetText(model.output_vocabulary),
    )

    def stop():
      trainer.stop_training = True

    with free_memory.exhaustion_named(), contextlib.closing(run):
      run.run_missed_evaluation(run_eval_before_training)
      if first_step == total_steps:
        console.print_line(f'already at step {total_steps}: nothing to train')
        _print_commands(model, model_dir)
        return 0
      run.save()
      # After saving: the saved data position must not count this batch.
      with console.waiting('reading the first batch'):
        first_batch = datasets.first_batch(train_iter, train_dataset_cfg)
      _compile(trainer, first_batch, train_dataset_cfg.batch_size, partitioner)
      # Not earlier: until there is a step to save, a signal ends the process.
      with stop_signals.deferred(stop, console.print_line) as received:
        batches = itertools.chain([first_batch], train_iter)
        with garbage.collected_every(gc_period, batches) as batches:
          run.run(batches)
    step = int(trainer.train_state.step)
    if received.signal:
      by = ' by SIGTERM' if received.signal == signal.SIGTERM else ''
      after = 'the same command resumes'
      if run.saved_step != step:
        after = 'no checkpoint was saved (SAVE_PERIOD)'
      console.print_line(f'stopped{by} at step {step}; {after}')
      return received.exit_code
    if trainer.stop_training:
      console.print_line(f'stopped by an action at step {step}')
    lines = reporting.results(
      model_dir, step - first_step, time.perf_counter() - start, run.saved_step
    )
    for line in lines:
      console.print_line(line)
    _print_commands(model, model_dir)
    return 0


def _compile(
  trainer: trainer_lib.Trainer,
  batch: trainer_lib.Batch,
  batch_size: int,
  partitioner: partitioning.PjitPartitioner,
) -> None:
  """Compiles the training step; prints the time taken and memory needed."""
  console.print_line(
    'compiling the training step (under a minute on a laptop) ...'
  )
  start = time.perf_counter()
  compiled = trainer.compile_train(batch)
  console.print_line(f'compiled in {time.perf_counter() - start:.1f} s')
  memory = free_memory.step_memory(compiled, trainer.train_state.params)
  if memory is None:
    return
  console.print_line(memory.line())
  if not memory.fits:
    console.print_line(
      memory.warning(
        batch_size,
        trainer.num_microbatches or 1,
        partitioner.data_mesh_size,
      )
    )


def _print_commands(model: models.BaseModel, model_dir: str) -> None:
  if reporting.commands_are_wanted():
    console.print_line(model.USE)
    for line in reporting.commands(model_dir, model.EXAMPLE_PROMPT):
      console.print_line(line)


def _restore_last_readable(
  model_dir: str,
  from_checkpoint: Callable[..., train_state_lib.TrainState],
  iterators: Iterator[datasets.DeviceIterator],
  save_dataset: bool,
) -> tuple[train_state_lib.TrainState, datasets.DeviceIterator]:
  """Restores the last readable checkpoint, and sets later ones aside.

  Args:
    model_dir: folder of the checkpoints.
    from_checkpoint: the initializer's method.
    iterators: yields fresh iterators over the training data, one per attempt:
      a failed restore may have advanced its iterator.
    save_dataset: whether checkpoints contain the position in the data.

  Returns:
    The state, and the iterator at the saved position.
  """

  def checkpoint(step: int) -> str:
    return os.path.join(model_dir, f'{checkpoints.PREFIX}_{step}')

  def restore(
    step: int,
  ) -> tuple[train_state_lib.TrainState, datasets.DeviceIterator]:
    iterator = next(iterators)
    cfg = checkpoints.RestoreCheckpointConfig(
      path=checkpoint(step), mode='specific'
    )
    state = from_checkpoint(cfg, iterator=iterator if save_dataset else None)
    return state, iterator

  return damaged_checkpoints.restored(
    checkpoints.steps(model_dir), checkpoint, restore, console.print_line
  )


def _check_numbers(**values: int | None) -> None:
  for name, value in values.items():
    if value is not None:
      number_ranges.check(name, value, minimum=0, whole=True)


def _eval_datasets(
  cfg: datasets.DatasetConfig | None,
  eval_steps: int,
  model: models.BaseModel,
  partitioner: partitioning.PjitPartitioner,
  get_dataset_fn: Callable[..., Mapping[str, tf.data.Dataset]],
) -> Mapping[str, tf.data.Dataset]:
  if cfg is None:
    return {}
  partitioner.get_data_layout(cfg.batch_size)
  return get_dataset_fn(cfg, 0, 1, eval_steps, model.FEATURE_CONVERTER_CLS)


class TrainLoop:
  """Training loop with periodic reports, checkpoints and evaluations.

  Periods count from step 0, not from the first step of the process, so that a
  resumed run reports, evaluates and saves at the same steps. The order is
  report, checkpoint, evaluation: when a checkpoint is saved, its steps have
  been reported, and an interrupted evaluation is run when training resumes.
  """

  def __init__(
    self,
    trainer: trainer_lib.Trainer,
    reporter: reporting.Reporter,
    checkpoint_manager: checkpoints.CheckpointManager | None,
    save_cfg: checkpoints.SaveCheckpointConfig | None,
    train_iter: datasets.DeviceIterator,
    eval_datasets: Mapping[str, tf.data.Dataset],
    evaluator: eval_lib.InferenceEvaluator | None,
    total_steps: int,
    stats_period: int,
    eval_period: int,
    actions: trainer_lib.Actions,
    target_text: eval_lib.TargetText | None = None,
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
    self._save_steps = (
      {*(save_cfg.checkpoint_steps or ())} if save_cfg else set()
    )
    self._step = int(trainer.train_state.step)

  def run(self, batches: Iterator[trainer_lib.Batch]) -> None:
    """Trains to the last step, or until the trainer is told to stop.

    If an action stops training, the state is saved if it is finite.

    Raises:
      ValueError: the loss is not finite, and no action stopped the run; the
        last checkpoint is kept.
    """
    batches = self._reporter.watch(batches)
    while self._step < self._total_steps and not self._trainer.stop_training:
      periods = (self._stats_period, self._eval_period, self._save_period)
      boundary = min(
        self._total_steps,
        *(_next(self._step, period) for period in periods if period),
        *(step for step in self._save_steps if step > self._step),
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
      values = metrics_lib.scalars(metrics)
      self._reporter.train(self._step, values, self._trainer.flops_per_step)
      # Before the check: an action may handle a loss that is not finite.
      by_task = {reporting.TRAIN: metrics_lib.values(metrics)}
      if self._act(trainer_lib.ActionMode.TRAIN, by_task):
        break
      self._check_finite(values)
      self._loss = values['loss']
      if self._manager:
        self._manager.check_for_errors()
      if self._is_due(self._save_period) or self._step in self._save_steps:
        self.save()
      if self._is_due(self._eval_period):
        self.evaluate()
    if self._stopped_by_action and not _all_finite(self._trainer.train_state):
      console.print_line(
        f'not saved: {_NOT_FINITE} is not finite; {self._kept_checkpoint()}'
      )
      return
    self.save()
    if self._manager:
      with self._reporter.busy('saving the last checkpoint'):
        self._manager.wait_until_finished()

  @property
  def saved_step(self) -> int | None:
    """The step of the last checkpoint; None if there is none."""
    return self._manager.latest_step() if self._manager else None

  def run_missed_evaluation(self, run_eval_before_training: bool) -> None:
    """Runs the evaluation that a stopped run missed, or the initial one."""
    if self._reporter.has_trained():
      due = self._is_due(self._eval_period)
    else:
      due = run_eval_before_training
    if due:
      self.evaluate()

  def save(self) -> None:
    """Starts saving a checkpoint, unless this step is already saved.

    Raises:
      ValueError: the state is not finite; nothing is saved.
    """
    if self._manager is None:
      return
    if not _all_finite(self._trainer.train_state):
      self._raise_not_finite(_NOT_FINITE)
    self._manager.save(
      self._trainer.train_state,
      self._save_cfg.dtype,
      self._train_iter if self._save_cfg.save_dataset else None,
      self._loss,
    )

  def evaluate(self) -> None:
    """Evaluates with teacher forcing, then with predictions.

    Tasks already reported at this step are skipped. A stop signal skips the
    remaining tasks; they are evaluated when the run resumes. Actions see both
    evaluations, even if one of them stops the run.
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
          f'{task}: the evaluation split has less than one batch; check the '
          'corpus, or lower BATCH_SIZE'
        )
      values = metrics_lib.scalars(metrics)
      if self._target_text:
        values |= self._target_text.metrics(task, values)
      several = len(self._eval_datasets) > 1
      self._reporter.eval(self._step, collection, values, named=several)
      by_task[task] = metrics_lib.values(metrics)
    results = self._evaluate_predictions()
    self._act(trainer_lib.ActionMode.TRAIN_EVAL, by_task)
    self._act(trainer_lib.ActionMode.INFER_EVAL, results)

  def _evaluating(self) -> contextlib.AbstractContextManager[None]:
    first, self._eval_compiled = not self._eval_compiled, True
    if first:
      console.print_line('compiling the evaluation, then evaluating ...')
    return self._reporter.busy('evaluating', announced=first)

  def _evaluate_predictions(self) -> Mapping[str, Mapping[str, float]]:
    tasks = [f'inference_eval/{task.name}' for task in self._inference_tasks()]
    if all(self._reporter.has(task, self._step) for task in tasks):
      return {}
    if self._trainer.stop_training:
      return {}
    with self._reporter.busy('evaluating predictions'):
      try:
        results = self._evaluator.evaluate(
          self._trainer.train_state, lambda: self._trainer.stop_training
        )
      except utils.StoppedError:
        return {}
    for task, values in results.items():
      self._reporter.inference_eval(
        self._step, f'inference_eval/{task}', values
      )
    return results

  def _act(
    self,
    mode: trainer_lib.ActionMode,
    metrics_by_task: trainer_lib.MetricsByTask,
  ) -> bool:
    """Runs the actions of a mode; returns whether one stops the run."""
    stops = bool(metrics_by_task) and trainer_lib.run_actions(
      mode, self._actions, self._trainer.train_state, metrics_by_task
    )
    if stops:
      self._stopped_by_action = self._trainer.stop_training = True
    return stops

  def close(self) -> None:
    """Finishes writing checkpoints and summaries."""
    try:
      self._reporter.close()
    finally:
      if self._manager:
        self._manager.close()

  def _inference_tasks(self):
    return self._evaluator.tasks if self._evaluator else ()

  def _is_due(self, period: int | None) -> bool:
    last = self._step == self._total_steps
    return bool(period) and (last or self._step % period == 0)

  def _check_finite(self, values: Mapping[str, float]) -> None:
    for name in ('loss', 'grad_norm'):
      if not math.isfinite(values[name]):
        self._raise_not_finite(f'the {name} ({values[name]})')

  def _raise_not_finite(self, what: str) -> None:
    raise ValueError(
      f'{what} is not finite at step {self._step}: stopped; '
      f'{self._kept_checkpoint()}. Lower the learning rate, or check the data'
    )

  def _kept_checkpoint(self) -> str:
    """Returns which checkpoint remains, for a message."""
    if self._manager:
      # A checkpoint counts only once it is complete.
      self._manager.wait_until_finished()
      if self.saved_step is not None:
        return f'the checkpoint of step {self.saved_step} is kept'
    return 'no checkpoint was saved'


def _next(step: int, period: int) -> int:
  return (step // period + 1) * period


@jax.jit
def _all_finite(train_state: train_state_lib.TrainState) -> jax.Array:
  leaves = jax.tree.leaves((train_state.params, train_state.param_states))
  return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves]))
