"""The training run: data, state, steps, reports, checkpoints, evaluation."""

import contextlib
import functools
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import seqio
import tensorflow as tf
from clu import metric_writers

from fnet_t5x import number_ranges, stop_signals
from fnet_t5x.runtime import actions as actions_lib
from fnet_t5x.runtime import (
  checkpoints,
  closing_lines,
  console,
  damaged_checkpoints,
  datasets,
  directory_lock,
  disk_space,
  free_memory,
  inference,
  initialization,
  models,
  parameter_report,
  partitioning,
  reporting,
  target_text,
  train_loop,
)
from fnet_t5x.runtime import train_state as train_state_lib
from fnet_t5x.runtime import trainer as trainer_lib


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
  actions: Mapping[str, Sequence[actions_lib.BaseAction]] | None = None,
  concurrent_metrics: bool = True,
) -> int:
  """Trains a model; T5X's `train` with T5X's arguments.

  Args:
    model: gives loss and predictions.
    train_dataset_cfg: what to train on.
    train_eval_dataset_cfg: what to evaluate on with teacher forcing.
    infer_eval_dataset_cfg: what to evaluate on with predictions and SeqIO's
      metrics.
    checkpoint_cfg: what to save, and what to start from where `model_dir`
      holds no checkpoint.
    partitioner: lays state and batches on the mesh.
    trainer_cls: makes the trainer.
    model_dir: for checkpoints, configuration and metrics.
    total_steps: the step to stop at.
    eval_steps: batches an evaluation.
    eval_period: steps between evaluations.
    relative_steps: stop so many steps after the start instead.
    stats_period: steps between reports; None for `eval_period`.
    random_seed: of initialisation and dropout; None takes the time.
    use_hardware_rng: T5X's switch for TPUs' fast generator; False here.
    summarize_config_fn: writes the configuration to `model_dir`.
    inference_evaluator_cls: makes SeqIO's evaluator.
    run_eval_before_training: also evaluate the initial state.
    actions: what may end the run, by the moment it is asked: after the steps
      of a report ('TRAIN'), or after an evaluation with teacher forcing
      ('TRAIN_EVAL') or with predictions ('INFER_EVAL').
    concurrent_metrics: T5X's switch: its actions of 'TRAIN' and 'INFER_EVAL'
      run only without. Here metrics are waited for, and all actions run.

  Returns:
    The exit code: 0; or 130 where Ctrl-C stopped the run, 143 where SIGTERM
    did: it has then saved.

  Raises:
    ValueError: bad input, a loss that is no number, or another run that has
      `model_dir`.
    OSError: `model_dir` is not writable, or its disk is full.
  """
  del concurrent_metrics
  start = time.perf_counter()
  if use_hardware_rng:
    raise ValueError('USE_HARDWARE_RNG is for T5X; set it to False')
  if not isinstance(model_dir, str) or not model_dir:
    raise ValueError(f'MODEL_DIR is {model_dir!r}; name a folder of yours')
  _check_numbers(
    TRAIN_STEPS=total_steps,
    EVAL_STEPS=eval_steps,
    EVAL_PERIOD=eval_period,
    STATS_PERIOD=stats_period,
    SAVE_PERIOD=checkpoint_cfg.save and checkpoint_cfg.save.period,
  )
  actions = actions_lib.parse_actions(actions)
  if random_seed is None:
    random_seed = int(time.time())
  init_rng, trainer_rng = jax.random.split(jax.random.PRNGKey(random_seed))

  save_cfg = checkpoint_cfg.save
  save_dataset = bool(save_cfg and save_cfg.save_dataset)
  datasets.get_mixture_or_task(train_dataset_cfg)
  partitioner.get_data_layout(train_dataset_cfg.batch_size)
  for cfg in (train_dataset_cfg, train_eval_dataset_cfg):
    if cfg:
      datasets.verify_matching_vocabs(cfg, model)

  def make_train_iter() -> datasets.DeviceIterator:
    return datasets.DeviceIterator(
      datasets.get_dataset(
        train_dataset_cfg, 0, 1, model.FEATURE_CONVERTER_CLS
      ),
      partitioner.get_shardings(partitioner.data_partition_spec),
    )

  train_iter = make_train_iter()
  initializer = initialization.TrainStateInitializer(
    model.optimizer_def,
    model.get_initial_variables,
    {k: tuple(v.shape) for k, v in train_iter.element_spec.items()},
    partitioner,
    {k: v.dtype for k, v in train_iter.element_spec.items()},
  )
  # After all that bad input can stop: such a run leaves no folder behind.
  reporting.check_writable(model_dir, 'MODEL_DIR')
  with directory_lock.held(model_dir), disk_space.exhaustion_named(model_dir):
    # Read now: another run may have gone on until it let the directory go.
    resume_step = checkpoints.latest_step(model_dir)
    console.say(f'model_dir: {model_dir}')
    if resume_step is not None:
      with console.waiting('restoring the checkpoint'):
        train_state, train_iter = _last_whole_state(
          model_dir,
          functools.partial(initializer.from_checkpoint, init_rng=init_rng),
          itertools.chain([train_iter], iter(make_train_iter, None)),
          save_dataset,
        )
      console.say(f'resuming from step {int(train_state.step)}')
    elif checkpoint_cfg.restore and checkpoint_cfg.restore.path:
      restore = checkpoint_cfg.restore
      with console.waiting('restoring the checkpoint to start from'):
        train_state = initializer.from_checkpoint(
          restore, init_rng, train_iter if restore.restore_dataset else None
        )
      step = f'starting from step {int(train_state.step)} of'
      console.say(console.wrapped([step, restore.path]))
    else:
      with console.waiting('initializing the parameters'):
        train_state = initializer.from_scratch(init_rng)
    first_step = int(train_state.step)
    if relative_steps:
      total_steps = first_step + relative_steps
    if total_steps < first_step:
      raise ValueError(
        f'TRAIN_STEPS is {total_steps}, but the checkpoint is at step '
        f'{first_step}; raise TRAIN_STEPS, or take another MODEL_DIR'
      )
    parameters = parameter_report.log_model_info(
      os.path.join(model_dir, 'model-info.txt'),
      initializer.global_train_state_shape,
      partitioner,
    )
    devices = f'{jax.device_count()} x {jax.devices()[0].device_kind}'
    mesh = ', '.join(
      f'{n}={size}' for n, size in partitioner.mesh.shape.items()
    )
    console.say(
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
    if save_cfg and save_cfg.period:
      manager = checkpoints.CheckpointManager(
        model_dir,
        save_cfg.keep,
        create=True,
        losses=reporter.losses,
      )
    run = train_loop.TrainLoop(
      trainer=trainer,
      reporter=reporter,
      checkpoint_manager=manager,
      save_cfg=save_cfg,
      train_iter=train_iter,
      eval_datasets=_eval_datasets(
        train_eval_dataset_cfg, eval_steps, model, partitioner
      ),
      evaluator=inference.evaluator(
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
      target_text=target_text.TargetText(model.output_vocabulary),
    )

    def stop():
      trainer.stop_training = True

    with free_memory.exhaustion_named(), contextlib.closing(run):
      run.make_up(run_eval_before_training)
      if first_step == total_steps:
        console.say(f'already at step {total_steps}: nothing to train')
        _say_commands(model_dir)
        return 0
      run.save()
      # Saved first: the position in the data must not count the batch taken.
      with console.waiting('reading the first batch'):
        first_batch = datasets.first_batch(train_iter, train_dataset_cfg)
      _compile(trainer, first_batch, train_dataset_cfg.batch_size, partitioner)
      # Before there is a step to save, a signal may end the process at once.
      with stop_signals.deferred(stop, console.say) as received:
        run.run(itertools.chain([first_batch], train_iter))
    step = int(trainer.train_state.step)
    if received.signal:
      by = ' by SIGTERM' if received.signal == signal.SIGTERM else ''
      after = 'the same command goes on'
      if run.saved_step != step:
        after = 'no checkpoint was saved (SAVE_PERIOD)'
      console.say(f'stopped{by} at step {step}; {after}')
      return received.exit_code
    if trainer.stop_training:
      console.say(f'stopped by an action at step {step}')
    lines = closing_lines.results(
      model_dir, step - first_step, time.perf_counter() - start, run.saved_step
    )
    for line in lines:
      console.say(line)
    _say_commands(model_dir)
    return 0


def _compile(
  trainer: trainer_lib.Trainer,
  batch: trainer_lib.Batch,
  batch_size: int,
  partitioner: partitioning.PjitPartitioner,
) -> None:
  """Compiles the training step, and says how long it took and what it takes."""
  console.say('compiling the training step (under a minute on a laptop) ...')
  start = time.perf_counter()
  compiled = trainer.compile_train(batch)
  console.say(f'compiled in {time.perf_counter() - start:.1f} s')
  memory = free_memory.step_memory(compiled, trainer.train_state.params)
  if memory is None:
    return
  console.say(memory.line())
  if not memory.fits:
    console.say(
      memory.warning(
        batch_size,
        trainer.num_microbatches or 1,
        partitioner.data_mesh_size,
      )
    )


def _say_commands(model_dir: str) -> None:
  if closing_lines.commands_are_wanted():
    console.say('continue a text with it, or evaluate it:')
    for line in closing_lines.commands(model_dir):
      console.say(line)


def _last_whole_state(
  model_dir: str,
  from_checkpoint: Callable[..., train_state_lib.TrainState],
  iterators: Iterator[datasets.DeviceIterator],
  save_dataset: bool,
) -> tuple[train_state_lib.TrainState, datasets.DeviceIterator]:
  """Restores the last checkpoint that can be read; sets later ones aside.

  Args:
    model_dir: where they are.
    from_checkpoint: the initializer's.
    iterators: over the training data, from its start, as many as it takes: a
      restore that failed may have moved the one that it was given.
    save_dataset: whether checkpoints hold the position in the data.

  Returns:
    The state, and the iterator that stands where it did then.
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
    checkpoints.steps(model_dir), checkpoint, restore, console.say
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
) -> Mapping[str, tf.data.Dataset]:
  if cfg is None:
    return {}
  partitioner.get_data_layout(cfg.batch_size)
  return datasets.get_training_eval_datasets(
    cfg, 0, 1, eval_steps, model.FEATURE_CONVERTER_CLS
  )
