"""The evaluation run: loss and SeqIO's metrics of a checkpoint on a task."""

import os
from collections.abc import Callable, Mapping

import jax
import seqio
import tensorflow as tf

from fnet_t5x.runtime import (
  checkpoints,
  console,
  datasets,
  gin_utils,
  inference,
  initialization,
  models,
  partitioning,
  reporting,
  train_loop,
)
from fnet_t5x.runtime import target_text as target_text_lib
from fnet_t5x.runtime import trainer as trainer_lib


def evaluate(
  *,
  model: models.BaseTransformerModel,
  dataset_cfg: datasets.DatasetConfig,
  restore_checkpoint_cfg: checkpoints.RestoreCheckpointConfig,
  partitioner: partitioning.PjitPartitioner,
  output_dir: str,
  inference_evaluator_cls: Callable[..., seqio.Evaluator] = seqio.Evaluator,
  summarize_config_fn: Callable[..., None] = gin_utils.summarize_gin_config,
  num_examples: int | None = None,
) -> Mapping[str, Mapping[str, float]]:
  """Evaluates a checkpoint; T5X's `evaluate` with T5X's arguments.

  Beside the tasks' own metrics it takes the loss of every task with teacher
  forcing, over every example once.

  Args:
    model: gives loss and predictions.
    dataset_cfg: the task or mixture, and its split.
    restore_checkpoint_cfg: the checkpoint.
    partitioner: lays parameters and batches on the mesh.
    output_dir: for `eval.jsonl` and what SeqIO's loggers write.
    inference_evaluator_cls: makes SeqIO's evaluator.
    summarize_config_fn: writes the configuration to `output_dir`.
    num_examples: takes the loss of the first so many examples of each task;
      None of all. T5X's has no such argument. `inference_evaluator_cls` has
      one of its own for the tasks' metrics.

  Returns:
    Metrics by task.

  Raises:
    ValueError: bad input.
    FileNotFoundError: there is no checkpoint.
  """
  provider = datasets.get_mixture_or_task(dataset_cfg)
  datasets.verify_matching_vocabs(dataset_cfg, model)
  lengths = dataset_cfg.task_feature_lengths
  if lengths is None:
    raise ValueError('TASK_FEATURE_LENGTHS is not set; give each feature one')
  partitioner.get_data_layout(dataset_cfg.batch_size)
  reporting.check_writable(output_dir, 'EVAL_OUTPUT_DIR')
  shapes = {
    name: (dataset_cfg.batch_size, length)
    for name, length in model.FEATURE_CONVERTER_CLS(pack=False)
    .get_model_feature_lengths(lengths)
    .items()
  }
  initializer = initialization.TrainStateInitializer(
    None, model.get_initial_variables, shapes, partitioner
  )
  with console.waiting('restoring the checkpoint'):
    train_state = initializer.from_checkpoint(restore_checkpoint_cfg)
  step = int(train_state.step)
  console.say(
    console.wrapped([f'evaluating step {step}', restore_checkpoint_cfg.path])
  )
  summarize_config_fn(output_dir, None, step)

  trainer = trainer_lib.Trainer(
    model=model,
    train_state=train_state,
    partitioner=partitioner,
    eval_names=(),
    summary_dir=None,
    train_state_axes=initializer.train_state_axes,
    rng=jax.random.PRNGKey(0),
    learning_rate_fn=lambda step: step,
    num_microbatches=None,
  )
  target_text = target_text_lib.TargetText(model.output_vocabulary)
  results: dict[str, dict[str, float]] = {}
  for task in seqio.get_subtasks(provider):
    if dataset_cfg.split in task.splits:
      batches = inference.padded_batches(
        dataset_cfg, task, model.FEATURE_CONVERTER_CLS, num_examples
      )
      batches = target_text.counted(task.name, batches)
      with console.waiting(f'evaluating the loss of {task.name}'):
        metrics = train_loop.scalars(trainer.eval(batches))
      if not metrics:
        raise ValueError(f'{task.name}, split {dataset_cfg.split!r}, is empty')
      results[task.name] = metrics | target_text.metrics(task.name, metrics)
  evaluator = inference.evaluator(
    dataset_cfg,
    inference_evaluator_cls,
    model,
    partitioner,
    initializer.train_state_axes,
    output_dir,
  )
  own = {}
  if evaluator:
    with console.waiting('evaluating predictions'):
      own = evaluator.evaluate(train_state)
    for task, metrics in own.items():
      results.setdefault(task, {}).update(metrics)
  with tf.io.gfile.GFile(os.path.join(output_dir, 'eval.jsonl'), 'a') as f:
    for task, metrics in results.items():
      f.write(reporting.json_line({'step': step, 'task': task, **metrics}))
      fields = [f'{task}:', *reporting.evaluation_fields(metrics)]
      console.say(console.wrapped(fields))
      if own.get(task):
        fields = [f'{task}:', *reporting.listed(own[task])]
        console.say(console.wrapped(fields))
  return results
