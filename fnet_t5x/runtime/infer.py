"""The inference run: predictions or scores of a task, as JSON lines."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

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
)

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
) -> Sequence[str]:
  """Writes predictions or scores; T5X's `infer` with T5X's arguments.

  Each line of `<task>-<mode>.jsonl-<shard>-of-<shards>` is an object with
  `inputs` (the pretokenized features) and `prediction`, `score` or both with
  `aux`. A run that was stopped goes on after its last whole chunk.

  Args:
    mode: 'predict', 'score' or 'predict_with_aux'.
    model: gives predictions and scores.
    dataset_cfg: the task or mixture, and its split.
    restore_checkpoint_cfg: the checkpoint.
    partitioner: lays parameters and batches on the mesh.
    output_dir: for the files.
    checkpoint_period: batches a chunk.
    shard_id: which shard of the dataset is this run's.
    num_shards: how many there are.
    summarize_config_fn: writes the configuration to `output_dir`.

  Returns:
    The files written.

  Raises:
    ValueError: bad input.
    FileNotFoundError: there is no checkpoint.
  """
  if mode not in _MODES:
    raise ValueError(f'mode is {mode!r}; use one of {", ".join(_MODES)}')
  provider = datasets.get_mixture_or_task(dataset_cfg)
  datasets.verify_matching_vocabs(dataset_cfg, model)
  lengths = dataset_cfg.task_feature_lengths
  if lengths is None:
    raise ValueError('TASK_FEATURE_LENGTHS is not set; give each feature one')
  converter = model.FEATURE_CONVERTER_CLS(pack=False)
  shapes = {
    name: (dataset_cfg.batch_size, length)
    for name, length in converter.get_model_feature_lengths(lengths).items()
  }
  initializer = initialization.TrainStateInitializer(
    None, model.get_initial_variables, shapes, partitioner
  )
  train_state = initializer.from_checkpoint(restore_checkpoint_cfg)
  summarize_config_fn(output_dir, None, int(train_state.step))
  step = {
    'predict': model.predict_batch,
    'predict_with_aux': model.predict_batch_with_aux,
    'score': model.score_batch,
  }[mode]
  infer_fn = inference.get_infer_fn(
    step, dataset_cfg.batch_size, initializer.train_state_axes, partitioner
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
    )
    chunk_size = checkpoint_period * dataset_cfg.batch_size
    vocabulary = task.output_features['targets'].vocabulary
    chunks = []
    for chunk in range(_count(examples, chunk_size)):
      chunks.append(f'{path}-chunk{chunk:05}')
      if tf.io.gfile.exists(chunks[-1]):
        continue
      part = examples.skip(chunk * chunk_size).take(chunk_size)
      rng = jax.random.fold_in(jax.random.PRNGKey(0), chunk)
      outputs = infer_fn(converter(part, lengths).enumerate(), train_state, rng)
      _write(chunks[-1], _lines(part, outputs, mode, vocabulary))
      console.say(f'{name}: chunk {chunk} written')
    _write(path, _joined(chunks))
    for chunk in chunks:
      tf.io.gfile.remove(chunk)
    console.say(f'wrote {path}')
    written.append(path)
  return written


def _count(examples: tf.data.Dataset, chunk_size: int) -> int:
  total = sum(1 for _ in examples)
  return -(-total // chunk_size)


def _lines(
  examples: tf.data.Dataset,
  outputs: Any,
  mode: str,
  vocabulary: seqio.Vocabulary,
) -> Iterator[str]:
  """One JSON line for each example and its output, in order."""
  pairs, auxiliary = outputs if isinstance(outputs, tuple) else (outputs, {})
  for position, (example, (index, output)) in enumerate(
    zip(examples.as_numpy_iterator(), pairs, strict=True)
  ):
    if position != index:
      raise RuntimeError(f'output {index} came at position {position}')
    row: dict[str, Any] = {
      'inputs': {
        name: _plain(value)
        for name, value in example.items()
        if name.endswith('_pretokenized')
      }
    }
    if mode == 'score':
      row['score'] = output
    else:
      row['prediction'] = vocabulary.decode(output)
    if auxiliary:
      row['aux'] = {name: values[index] for name, values in auxiliary.items()}
    yield json.dumps(row) + '\n'


def _plain(value: Any) -> Any:
  if isinstance(value, bytes):
    return value.decode('utf-8')
  return value.tolist()


def _joined(paths: Sequence[str]) -> Iterator[str]:
  for path in paths:
    with tf.io.gfile.GFile(path) as f:
      yield from f


def _write(path: str, lines: Iterator[str]) -> None:
  """Writes a file whole or not at all."""
  with tf.io.gfile.GFile(path + '.tmp', 'w') as f:
    for line in lines:
      f.write(line)
  tf.io.gfile.rename(path + '.tmp', path, overwrite=True)
