"""Evaluation run: loss and SeqIO metrics of a checkpoint on a task."""

import contextlib
import dataclasses
import functools
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import seqio
import tensorflow as tf
from absl import logging as absl_logging
from jaxtyping import Int

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
from fnet_t5x.runtime import metrics as metrics_lib
from fnet_t5x.runtime import train_state as train_state_lib
from fnet_t5x.runtime import trainer as trainer_lib

Batch = Mapping[str, np.ndarray]
_FIRST_BYTE, _BYTES = 3, 256  # seqio.ByteVocabulary: after pad, EOS and unk


def evaluate(
  *,
  model: models.BaseTransformerModel,
  dataset_cfg: datasets.DatasetConfig,
  restore_checkpoint_cfg: checkpoints.RestoreCheckpointConfig,
  partitioner: partitioning.PjitPartitioner,
  output_dir: str,
  inference_evaluator_cls: Callable[..., seqio.Evaluator] = seqio.Evaluator,
  summarize_config_fn: Callable[..., None] = gin_utils.summarize_gin_config,
  train_state_initializer_cls: Callable[
    ..., utils.TrainStateInitializer
  ] = utils.TrainStateInitializer,
  fallback_init_rng: int | None = None,
  use_orbax: bool = True,
  num_examples: int | None = None,
) -> Mapping[str, Mapping[str, float]]:
  """Evaluates checkpoints; T5X's `evaluate` with T5X's arguments.

  Besides the tasks' own metrics, it computes the loss of every task with
  teacher forcing, over every example once.

  Args:
    model: computes the loss and predictions.
    dataset_cfg: the task or mixture, and its split.
    restore_checkpoint_cfg: the checkpoint, or several.
    partitioner: shards parameters and batches over the mesh.
    output_dir: folder of `eval.jsonl` and the output of SeqIO's loggers.
    inference_evaluator_cls: constructs SeqIO's evaluator.
    summarize_config_fn: writes the configuration to `output_dir`.
    train_state_initializer_cls: constructs the initializer.
    fallback_init_rng: seed for initializing what the checkpoint lacks, with
      `RestoreCheckpointConfig.fallback_to_scratch`.
    use_orbax: must be True.
    num_examples: number of examples of each task over which to compute the
      loss; None for all. Not in T5X. `inference_evaluator_cls` has a
      `num_examples` for the tasks' metrics.

  Returns:
    Metrics by task, of the last checkpoint.

  Raises:
    ValueError: bad input.
    FileNotFoundError: there is no checkpoint.
  """
  checkpoints.check_orbax(use_orbax)
  provider = datasets.get_mixture_or_task(dataset_cfg)
  datasets.verify_matching_vocabs(dataset_cfg, model)
  dataset_cfg = feature_lengths.with_lengths(dataset_cfg)
  lengths = dataset_cfg.task_feature_lengths
  partitioner.get_data_layout(dataset_cfg.batch_size)
  reporting.check_writable(output_dir, 'EVAL_OUTPUT_DIR')
  shapes = {
    name: (dataset_cfg.batch_size, length)
    for name, length in model.FEATURE_CONVERTER_CLS(pack=False)
    .get_model_feature_lengths(lengths)
    .items()
  }
  initializer = train_state_initializer_cls(
    None, model.get_initial_variables, shapes, partitioner
  )
  init_rng = None
  if fallback_init_rng is not None:
    init_rng = jax.random.PRNGKey(fallback_init_rng)
  target_text = TargetText(model.output_vocabulary)
  trainer = evaluator = train_state = None
  results: dict[str, dict[str, float]] = {}
  for restore_cfg in checkpoints.each(restore_checkpoint_cfg):
    # Not two states at once.
    del train_state
    if trainer is not None:
      trainer.train_state = None
    with console.waiting('restoring the checkpoint'):
      train_state = initializer.from_checkpoint(restore_cfg, init_rng)
    step = int(train_state.step)
    console.print_line(
      console.wrapped([f'evaluating step {step}', restore_cfg.path])
    )
    if trainer is None:
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
    trainer.train_state = train_state
    results = {}
    for task in seqio.get_subtasks(provider):
      if dataset_cfg.split in task.splits:
        batches = padded_batches(
          dataset_cfg, task, model.FEATURE_CONVERTER_CLS, num_examples
        )
        batches = target_text.counted(task.name, batches)
        with console.waiting(f'evaluating the loss of {task.name}'):
          metrics = metrics_lib.scalars(trainer.eval(batches))
        if not metrics:
          raise ValueError(
            f'{task.name}, split {dataset_cfg.split!r}, is empty'
          )
        results[task.name] = metrics | target_text.metrics(task.name, metrics)
    evaluator = evaluator or make_evaluator(
      dataset_cfg,
      inference_evaluator_cls,
      model,
      partitioner,
      initializer.train_state_axes,
      output_dir,
    )
    task_metrics = {}
    if evaluator:
      with console.waiting('evaluating predictions'):
        task_metrics = evaluator.evaluate(train_state)
      for task, metrics in task_metrics.items():
        results.setdefault(task, {}).update(metrics)
    _write(output_dir, step, results, task_metrics)
  return results


def _write(
  output_dir: str,
  step: int,
  results: Mapping[str, Mapping[str, float]],
  task_metrics: Mapping[str, Mapping[str, float]],
) -> None:
  """Appends a checkpoint's metrics to `eval.jsonl`, and prints them."""
  with tf.io.gfile.GFile(os.path.join(output_dir, 'eval.jsonl'), 'a') as f:
    for task, metrics in results.items():
      f.write(reporting.json_line({'step': step, 'task': task, **metrics}))
      fields = [f'{task}:', *reporting.evaluation_fields(metrics)]
      console.print_line(console.wrapped(fields))
      if task_metrics.get(task):
        fields = [f'{task}:', *reporting.listed(task_metrics[task])]
        console.print_line(console.wrapped(fields))


class InferenceEvaluator:
  """SeqIO's evaluator for a model and the tasks of a config."""

  def __init__(
    self,
    cfg: datasets.DatasetConfig,
    evaluator_cls: Callable[..., seqio.Evaluator],
    model: models.BaseModel,
    partitioner: partitioning.PjitPartitioner,
    train_state_axes: Any,
    log_dir: str,
  ):
    provider = datasets.get_mixture_or_task(cfg)
    datasets.verify_matching_vocabs(cfg, model)
    with _lengths_as_trained():
      self._evaluator = evaluator_cls(
        mixture_or_task_name=provider.name,
        feature_converter=model.FEATURE_CONVERTER_CLS(pack=False),
        eval_split=cfg.split,
        use_cached=cfg.use_cached,
        seed=cfg.seed,
        sequence_length=cfg.task_feature_lengths,
        log_dir=os.path.join(log_dir, 'inference_eval'),
        use_memory_cache=cfg.use_memory_cache,
      )
    infer_fn = functools.partial(
      utils.get_infer_fn,
      batch_size=cfg.batch_size,
      train_state_axes=train_state_axes,
      partitioner=partitioner,
    )
    self._predict = infer_fn(model.predict_batch_with_aux, drops_aux=True)
    self._predict_with_aux = infer_fn(model.predict_batch_with_aux)
    self._score = infer_fn(model.score_batch)

  @property
  def tasks(self) -> Sequence[seqio.Task]:
    """Tasks with metric functions."""
    return self._evaluator.eval_tasks

  def evaluate(
    self,
    train_state: train_state_lib.TrainState,
    should_stop: Callable[[], bool] = lambda: False,
  ) -> Mapping[str, Mapping[str, float]]:
    """Returns each task's metrics, and logs them.

    Raises:
      StoppedError: `should_stop` returned True; it is called before each batch.
    """
    if not self.tasks:
      return {}
    score = functools.partial(
      self._score, train_state=train_state, should_stop=should_stop
    )
    bound = functools.partial(
      functools.partial,
      train_state=train_state,
      rng=jax.random.PRNGKey(0),
      should_stop=should_stop,
    )
    metrics, _ = self._evaluator.evaluate(
      compute_metrics=True,
      step=int(train_state.step),
      predict_fn=bound(self._predict),
      score_fn=score,
      predict_with_aux_fn=bound(self._predict_with_aux),
    )
    return metrics.result() or {}


def make_evaluator(
  cfg: datasets.DatasetConfig | None,
  evaluator_cls: Callable[..., seqio.Evaluator],
  model: models.BaseModel,
  partitioner: partitioning.PjitPartitioner,
  train_state_axes: Any,
  log_dir: str,
) -> InferenceEvaluator | None:
  """Returns an evaluator; None without a config or metrics."""
  if cfg is None:
    return None
  evaluator = InferenceEvaluator(
    cfg, evaluator_cls, model, partitioner, train_state_axes, log_dir
  )
  return evaluator if evaluator.tasks else None


def padded_batches(
  cfg: datasets.DatasetConfig,
  task: seqio.Task,
  feature_converter_cls: Callable[..., seqio.FeatureConverter],
  num_examples: int | None = None,
) -> Iterator[Mapping[str, np.ndarray]]:
  """Yields every example of a split once, unpacked, in full batches.

  The last batch is padded with rows without target tokens and with zero loss
  weights. Only the first `num_examples` are used; None for all.
  """
  examples = datasets.get_dataset(
    dataclasses.replace(
      cfg,
      mixture_or_task_name=task,
      batch_size=1,
      pack=False,
      shuffle=False,
    ),
    0,
    1,
    feature_converter_cls,
    num_epochs=1,
  ).take(-1 if num_examples is None else num_examples)
  for batch in examples.unbatch().batch(cfg.batch_size).as_numpy_iterator():
    yield {
      name: np.pad(x, [(0, cfg.batch_size - len(x)), *[(0, 0)] * (x.ndim - 1)])
      for name, x in batch.items()
    }


@contextlib.contextmanager
def _lengths_as_trained() -> Iterator[None]:
  """Suppresses SeqIO's advice to evaluate at shorter lengths than in training.

  A loss at other lengths is not comparable.
  """

  def is_other(record: logging.LogRecord) -> bool:
    return 'longer than necessary' not in str(record.msg)

  log = absl_logging.get_absl_logger()
  log.addFilter(is_other)
  try:
    yield
  finally:
    log.removeFilter(is_other)


class TargetText:
  """Bits per byte of evaluation batches, whose text is counted once per task.

  Bits per byte are the nats of all target tokens, divided by ln 2 and the bytes
  of the targets' text, as in `fnet_t5x.tasks.metrics.held_out_loss`: they are
  comparable across vocabularies. The nats of EOS and sentinels are included,
  although they decode to no text, as the end of a target and its place in the
  input must be predicted, too.
  """

  def __init__(self, vocabulary: seqio.Vocabulary):
    """Initializes the counter with the vocabulary of the targets."""
    self._vocabulary = vocabulary
    self._bytes: Int[np.ndarray, ' vocab'] | None = None
    self._counts: dict[str, tuple[int, int] | None] = {}

  def counted(self, name: str, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yields the batches, and counts their targets the first time.

    Args:
      name: the task, whose batches are the same in every evaluation.
      batches: with `decoder_target_tokens` [batch, length] and, if only some
        tokens count, `decoder_loss_weights` of the same shape. Of others, such
        as masked LM's, bits per byte are unknown.
    """
    if name in self._counts:
      yield from batches
      return
    if self._bytes is None:
      self._bytes = piece_bytes(self._vocabulary)
    tokens = size = 0
    known = self._bytes is not None
    for batch in batches:
      yield batch
      # Without, it is not the text that is predicted, but parts or labels.
      known = known and 'decoder_target_tokens' in batch
      if not known:
        continue
      targets = np.asarray(batch['decoder_target_tokens'])
      weights = np.asarray(batch.get('decoder_loss_weights', targets != 0))
      counts = weights != 0
      # With other weights the loss is not the text's cross-entropy.
      known = known and bool(np.all(weights[counts] == 1))
      known = known and int(targets.max(initial=0)) < len(self._bytes)
      if known:
        tokens += int(counts.sum())
        size += int(self._bytes[targets[counts]].sum())
    self._counts[name] = (tokens, size) if known and size else None

  def metrics(self, name: str, values: Mapping[str, float]) -> dict[str, float]:
    """Returns `bits_per_byte` of an evaluation; empty if it is unknown.

    Args:
      name: a task whose batches were all counted.
      values: its metrics; `cross_ent_per_target_token` is in nats.
    """
    counts = self._counts.get(name)
    if counts is None:
      return {}
    tokens, size = counts
    nats = values['cross_ent_per_target_token'] * tokens
    return {'bits_per_byte': nats / math.log(2) / size}


def piece_bytes(
  vocabulary: seqio.Vocabulary,
) -> Int[np.ndarray, ' vocab'] | None:
  """Returns the number of bytes of text that each id decodes to.

  The UTF-8 bytes of a piece in normalized text. A space (`▁`) counts, including
  the one that SentencePiece adds before a text. Ids without text, such as EOS
  and sentinels, have 0. The unknown piece has 1, the minimum.

  Returns:
    The table, or None if it cannot be derived from the vocabulary.
  """
  if isinstance(vocabulary, seqio.ByteVocabulary):
    table = np.zeros(vocabulary.vocab_size, np.int64)
    table[_FIRST_BYTE : _FIRST_BYTE + _BYTES] = 1
    return table
  if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
    return None
  pieces = vocabulary.tokenizer
  sentinels = range(
    vocabulary.vocab_size - vocabulary.extra_ids, vocabulary.vocab_size
  )

  def size(piece: int) -> int:
    if piece in sentinels or pieces.IsControl(piece) or pieces.IsUnused(piece):
      return 0
    if pieces.IsByte(piece) or pieces.IsUnknown(piece):
      return 1
    return len(pieces.IdToPiece(piece).replace('▁', ' ').encode())

  return np.array([size(piece) for piece in range(vocabulary.vocab_size)])
