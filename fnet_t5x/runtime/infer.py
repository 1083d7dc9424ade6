"""Inference run: predictions or scores of a task, as JSON lines."""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import seqio
import tensorflow as tf

from fnet_t5x import inference_rows
from fnet_t5x.runtime import (
  checkpoints,
  console,
  datasets,
  feature_lengths,
  gin_utils,
  models,
  partitioning,
  reporting,
  utils,
)

Example = Mapping[str, Any]
_MODES = ('predict', 'score', 'predict_with_aux')


def infer(
  *,
  mode: str,
  model: models.BaseTransformerModel,
  dataset_cfg: datasets.DatasetConfig,
  restore_checkpoint_cfg: checkpoints.RestoreCheckpointConfig,
  partitioner: partitioning.PjitPartitioner,
  output_dir: str,
  checkpoint_period: int,
  shard_id: int = 0,
  num_shards: int = 1,
  summarize_config_fn: Callable[..., None] = gin_utils.summarize_gin_config,
  train_state_initializer_cls: Callable[
    ..., utils.TrainStateInitializer
  ] = utils.TrainStateInitializer,
  fallback_init_rng: int | None = None,
  use_orbax: bool = True,
  write_fn: Callable[..., None] | None = None,
  num_examples: int | None = None,
) -> Sequence[str]:
  """Writes predictions or scores; T5X's `infer` with T5X's arguments.

  Each line of `<task>-<mode>.jsonl-<shard>-of-<shards>` is an object with
  `inputs` (the pretokenized or decoded features), `prediction` or `score`, and
  in mode 'predict_with_aux' `aux`. A stopped run resumes after its last
  complete chunk.

  Args:
    mode: 'predict', 'score' or 'predict_with_aux'.
    model: computes predictions and scores.
    dataset_cfg: the task or mixture, and its split.
    restore_checkpoint_cfg: the checkpoint.
    partitioner: shards parameters and batches over the mesh.
    output_dir: folder of the files.
    checkpoint_period: batches per chunk.
    shard_id: this run's shard of the dataset.
    num_shards: number of shards.
    summarize_config_fn: writes the configuration to `output_dir`.
    train_state_initializer_cls: constructs the initializer.
    fallback_init_rng: seed for initializing what the checkpoint lacks, with
      `RestoreCheckpointConfig.fallback_to_scratch`.
    use_orbax: must be True.
    write_fn: writes a chunk, as `inference_rows.write_inferences`; None for
      that function, with the features of each task.
    num_examples: maximum number of examples per task and shard; None for all.
      Not in T5X.

  Returns:
    The paths of the files.

  Raises:
    ValueError: bad input.
    FileNotFoundError: there is no checkpoint.
  """
  if mode not in _MODES:
    raise ValueError(f'mode is {mode!r}; use one of {", ".join(_MODES)}')
  checkpoints.check_orbax(use_orbax)
  provider = datasets.get_mixture_or_task(dataset_cfg)
  datasets.verify_matching_vocabs(dataset_cfg, model)
  dataset_cfg = feature_lengths.with_lengths(dataset_cfg)
  lengths = dataset_cfg.task_feature_lengths
  reporting.check_writable(output_dir, 'INFER_OUTPUT_DIR')
  converter = model.FEATURE_CONVERTER_CLS(pack=False)
  shapes = {
    name: (dataset_cfg.batch_size, length)
    for name, length in converter.get_model_feature_lengths(lengths).items()
  }
  initializer = train_state_initializer_cls(
    None, model.get_initial_variables, shapes, partitioner
  )
  init_rng = None
  if fallback_init_rng is not None:
    init_rng = jax.random.PRNGKey(fallback_init_rng)
  train_state = initializer.from_checkpoint(restore_checkpoint_cfg, init_rng)
  summarize_config_fn(output_dir, None, int(train_state.step))
  step = {
    'predict': model.predict_batch_with_aux,
    'predict_with_aux': model.predict_batch_with_aux,
    'score': model.score_batch,
  }[mode]
  infer_fn = utils.get_infer_fn(
    step,
    dataset_cfg.batch_size,
    initializer.train_state_axes,
    partitioner,
    drops_aux=mode == 'predict',
  )

  written = []
  for task in seqio.get_subtasks(provider):
    if dataset_cfg.split not in task.splits:
      continue
    name = f'{task.name}-{mode}.jsonl-{shard_id:05}-of-{num_shards:05}'
    path = os.path.join(output_dir, name)
    examples = task.get_dataset(
      sequence_length=lengths,
      split=dataset_cfg.split,
      shuffle=False,
      num_epochs=1,
      shard_info=seqio.ShardInfo(shard_id, num_shards),
      use_cached=dataset_cfg.use_cached,
      seed=dataset_cfg.seed,
      trim_output_features=dataset_cfg.trim_output_features,
    ).take(-1 if num_examples is None else num_examples)
    chunks = []
    for index, part in enumerate(
      _chunks(examples, checkpoint_period * dataset_cfg.batch_size)
    ):
      # The name identifies checkpoint and examples: others' are not reused.
      chunks.append(f'{path}-step{train_state.step}-{index}x{len(part)}')
      if tf.io.gfile.exists(chunks[-1]):
        continue
      outputs = infer_fn(
        converter(_dataset(part, examples.element_spec), lengths).enumerate(),
        train_state,
        jax.random.fold_in(jax.random.PRNGKey(0), index),
      )
      inferences = _inferences(outputs)
      if write_fn is None:
        _write(
          chunks[-1],
          inference_rows.lines(part, inferences, mode, task.output_features),
        )
      else:
        of_part = _dataset(part, examples.element_spec)
        vocabulary = task.output_features.get('targets')
        write_fn(
          f'{chunks[-1]}.tmp',
          inferences,
          of_part,
          mode,
          vocabulary and vocabulary.vocabulary,
        )
        tf.io.gfile.rename(f'{chunks[-1]}.tmp', chunks[-1], overwrite=True)
      console.print_line(f'{name}: wrote chunk {index}')
    if not chunks:
      raise ValueError(f'{task.name}, split {dataset_cfg.split!r}, is empty')
    _write(path, _joined(chunks))
    for chunk in chunks:
      tf.io.gfile.remove(chunk)
    console.print_line(f'wrote {path}')
    written.append(path)
  return written


def _chunks(examples: tf.data.Dataset, size: int) -> Iterator[list[Example]]:
  """Yields lists of `size` examples; the last may be shorter."""
  iterator = examples.as_numpy_iterator()
  while part := list(itertools.islice(iterator, size)):
    yield part


def _dataset(examples: Sequence[Example], element_spec) -> tf.data.Dataset:
  """Returns examples as a dataset, not read again: tasks may be random."""
  return tf.data.Dataset.from_generator(
    lambda: iter(examples), output_signature=element_spec
  )


def _inferences(outputs: Any) -> inference_rows.Inferences:
  """Returns outputs in order, and auxiliary values."""
  pairs, auxiliary = outputs if isinstance(outputs, tuple) else (outputs, {})
  return [output for _, output in pairs], auxiliary


def _joined(paths: Sequence[str]) -> Iterator[str]:
  for path in paths:
    with tf.io.gfile.GFile(path) as f:
      yield from f


def _write(path: str, lines: Iterator[str]) -> None:
  """Writes a file atomically."""
  with tf.io.gfile.GFile(path + '.tmp', 'w') as f:
    for line in lines:
      f.write(line)
  tf.io.gfile.rename(path + '.tmp', path, overwrite=True)
