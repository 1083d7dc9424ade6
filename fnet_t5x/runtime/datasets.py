"""SeqIO datasets of a `DatasetConfig`, with checks and batches on the mesh."""

import dataclasses
import difflib
import importlib
import time
from collections.abc import Callable, Iterator, Mapping

import clu.data
import jax
import numpy as np
import seqio
import tensorflow as tf
from clu.data import dataset_iterator

from fnet_t5x import model_tasks
from fnet_t5x.runtime import models

Batch = Mapping[str, np.ndarray]
_TEXTS = ('inputs', 'targets')


@dataclasses.dataclass
class DatasetConfig:
  """A task or mixture, and how to batch it (T5X's fields).

  Attributes:
    mixture_or_task_name: name of a registered SeqIO task or mixture, or the
      object itself.
    task_feature_lengths: tokens per feature after packing or padding; None for
      the maximum of the split.
    split: the split's name.
    batch_size: examples per batch, over all devices.
    shuffle: whether to shuffle examples.
    seed: seed of shuffling and of the objective; None for the time.
    use_cached: whether to read the output of SeqIO's caching job.
    pack: whether to pack several examples into one row.
    trim_output_features: whether to truncate features to their length.
    use_custom_packing_ops: whether to use SeqIO's TensorFlow packing op.
    use_memory_cache: whether to keep evaluation batches in memory.
    module: module to import first, for its registrations.
    num_prefetch_threads: no effect: tf.data chooses the number.
    num_workers: T5X's processes of its other pipeline; must be 0.
  """

  mixture_or_task_name: str | seqio.Task | seqio.Mixture
  task_feature_lengths: Mapping[str, int] | None
  split: str
  batch_size: int
  shuffle: bool
  seed: int | None
  use_cached: bool = False
  pack: bool = False
  trim_output_features: bool = True
  use_custom_packing_ops: bool = False
  use_memory_cache: bool = True
  module: str | None = None
  num_prefetch_threads: int | None = None
  num_workers: int = 0

  def __post_init__(self):
    if self.num_workers:
      raise ValueError(
        f'DatasetConfig.num_workers is {self.num_workers!r}: the embedded '
        'runtime reads data in its own process; leave it out'
      )


def get_mixture_or_task(cfg: DatasetConfig) -> seqio.Task | seqio.Mixture:
  """Returns the task or mixture of a config, after importing its module.

  Raises:
    ValueError: the task, split, a feature or the cache does not exist, or a
      length or batch size is not a positive integer.
  """
  if cfg.module:
    importlib.import_module(cfg.module)
  provider = cfg.mixture_or_task_name
  if isinstance(provider, str):
    known = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    if provider not in known:
      close = difflib.get_close_matches(provider, known, n=3)
      hint = (
        f'did you mean {", ".join(close)}?'
        if close
        else f'registered are {", ".join(sorted(known)) or "none"};'
      )
      raise ValueError(
        f'MIXTURE_OR_TASK_NAME: no task or mixture is called {provider!r}; '
        f'{hint} a task of your own must be imported in a gin file'
      )
    provider = seqio.get_mixture_or_task(provider)
  if cfg.split not in provider.splits:
    raise ValueError(
      f'{provider.name} has no split {cfg.split!r}; it has '
      f'{", ".join(sorted(provider.splits))}'
    )
  if cfg.use_cached:
    _check_cached(provider)
  if not isinstance(cfg.batch_size, int) or cfg.batch_size < 1:
    raise ValueError(
      f'BATCH_SIZE is {cfg.batch_size!r}; it must be a number of examples, at '
      'least 1'
    )
  lengths = cfg.task_feature_lengths or {}
  if not isinstance(lengths, Mapping):
    raise ValueError(
      f'TASK_FEATURE_LENGTHS is {lengths!r}; write it as '
      "{'inputs': 512, 'targets': 114}"
    )
  for feature, length in lengths.items():
    if feature not in provider.output_features:
      raise ValueError(
        f'TASK_FEATURE_LENGTHS names {feature!r}; {provider.name} has '
        f'{", ".join(provider.output_features)}'
      )
    if not isinstance(length, int) or length < 1:
      raise ValueError(
        f'TASK_FEATURE_LENGTHS[{feature!r}] is {length!r}; it must be a number '
        'of tokens, at least 1'
      )
  missing = set(provider.output_features) - set(lengths)
  if lengths and missing:
    raise ValueError(
      f'TASK_FEATURE_LENGTHS lacks {", ".join(sorted(missing))}, a feature of '
      f'{provider.name}'
    )
  return provider


def _check_cached(provider: seqio.Task | seqio.Mixture) -> None:
  """Raises ValueError for tasks that have not been cached.

  Tasks that do not support caching are read from their source, as in SeqIO.
  """
  missing = [
    task.name
    for task in seqio.get_subtasks(provider)
    if task.supports_caching and not task.cache_dir
  ]
  if missing:
    folders = ', '.join(seqio.utils.get_global_cache_dirs()) or 'none given'
    raise ValueError(
      f'USE_CACHED_TASKS is True, but {", ".join(missing)} is in no cache '
      f'folder ({folders}); set USE_CACHED_TASKS to False, add the folder with '
      '--seqio_additional_cache_dirs, or create it with seqio_cache_tasks '
      f'--tasks={",".join(missing)} --module_import=fnet_t5x.tasks.catalog '
      '--output_cache_dir=FOLDER'
    )


def get_dataset(
  cfg: DatasetConfig,
  shard_id: int,
  num_shards: int,
  feature_converter_cls: Callable[..., seqio.FeatureConverter],
  num_epochs: int | None = None,
  continue_from_last_checkpoint: bool = False,
) -> tf.data.Dataset:
  """Returns batches of model features.

  Args:
    cfg: the task, and how to batch it.
    shard_id: this host's shard of the data.
    num_shards: number of shards; must divide the batch size.
    feature_converter_cls: the model's converter from task features to model
      features.
    num_epochs: passes over the data; None for no limit.
    continue_from_last_checkpoint: T5X's argument; must be False.

  Raises:
    ValueError: bad input; see `get_mixture_or_task`.
  """
  if continue_from_last_checkpoint:
    raise ValueError('continue_from_last_checkpoint is for T5X only')
  provider = get_mixture_or_task(cfg)
  if cfg.batch_size % num_shards:
    raise ValueError(
      f'batch size {cfg.batch_size} is not divisible by {num_shards} shards'
    )
  return seqio.get_dataset(
    mixture_or_task_name=provider,
    task_feature_lengths=cfg.task_feature_lengths,
    dataset_split=cfg.split,
    shuffle=cfg.shuffle,
    num_epochs=num_epochs,
    feature_converter=feature_converter_cls(
      pack=cfg.pack, use_custom_packing_ops=cfg.use_custom_packing_ops
    ),
    shard_info=seqio.ShardInfo(index=shard_id, num_shards=num_shards),
    use_cached=cfg.use_cached,
    seed=int(time.time()) if cfg.seed is None else cfg.seed,
    trim_output_features=cfg.trim_output_features,
    batch_size=cfg.batch_size // num_shards,
  )


def get_training_eval_datasets(
  cfg: DatasetConfig,
  shard_id: int,
  num_shards: int,
  eval_steps: int,
  feature_converter_cls: Callable[..., seqio.FeatureConverter],
) -> Mapping[str, tf.data.Dataset]:
  """Returns `eval_steps` batches per task of a mixture, and of the mixture.

  Examples are repeated as often as necessary, as in T5X.
  """
  provider = get_mixture_or_task(cfg)
  if cfg.batch_size % num_shards:
    raise ValueError(
      f'batch size {cfg.batch_size} is not divisible by {num_shards} shards'
    )
  tasks = [t for t in seqio.get_subtasks(provider) if cfg.split in t.splits]
  if isinstance(provider, seqio.Mixture):
    tasks.append(provider)
  datasets = {}
  for task in tasks:
    single = dataclasses.replace(cfg, mixture_or_task_name=task, batch_size=1)
    # A finite number of epochs, or an empty split would never end.
    batches = (
      get_dataset(
        single, 0, 1, feature_converter_cls, eval_steps * cfg.batch_size
      )
      .unbatch()
      .repeat()
      .shard(num_shards, shard_id)
      .batch(cfg.batch_size // num_shards, drop_remainder=True)
      .take(eval_steps)
    )
    datasets[task.name] = batches.cache() if cfg.use_memory_cache else batches
  return datasets


def get_vocabulary(
  cfg: DatasetConfig,
) -> tuple[seqio.Vocabulary, seqio.Vocabulary]:
  """Returns the vocabularies of inputs and targets.

  Of a task with only one of the two, it is the vocabulary of both.
  """
  features = get_mixture_or_task(cfg).output_features
  found = [features[n].vocabulary for n in _TEXTS if n in features]
  if not found:
    raise ValueError(
      f'{cfg.mixture_or_task_name} has neither inputs nor targets, but '
      f'{", ".join(features)}'
    )
  return found[0], found[-1]


def verify_matching_vocabs(
  cfg: DatasetConfig, model: models.BaseTransformerModel
) -> None:
  """Checks that the task and the model have the same vocabularies.

  Raises:
    ValueError: the model does not take the task's features, the vocabularies
      differ, or the network has fewer ids than the vocabulary.
  """
  model_tasks.check_features(
    model,
    str(cfg.mixture_or_task_name),
    get_mixture_or_task(cfg).output_features,
  )
  ours = (model.input_vocabulary, model.output_vocabulary)
  for feature, task_vocabulary, vocabulary in zip(
    ('inputs', 'targets'), get_vocabulary(cfg), ours, strict=True
  ):
    if task_vocabulary != vocabulary:
      raise ValueError(
        f"the vocabulary of {cfg.mixture_or_task_name}'s {feature} "
        f"({task_vocabulary}) is not the model's ({vocabulary}); set "
        "VOCABULARY to the task's"
      )
  size = getattr(getattr(model.module, 'config', None), 'vocab_size', None)
  needed = max(vocabulary.vocab_size for vocabulary in ours)
  # JAX clips indices that are out of range: training would continue, with wrong
  # tokens.
  if size is not None and size < needed:
    raise ValueError(
      f'VOCAB_SIZE is {size}, but the vocabulary has {needed} ids; raise it to '
      f'{-(-needed // 128) * 128}'
    )


class DeviceIterator(dataset_iterator.DatasetIterator):
  """Iterator over batches on the mesh, checkpointed as `tf.data` iterators are.

  Attributes:
    element_spec: shapes and dtypes of a batch.
  """

  def __init__(self, dataset: tf.data.Dataset, sharding: jax.sharding.Sharding):
    self._iterator = clu.data.TfDatasetIterator(dataset, checkpoint=True)
    self._sharding = sharding

  def __next__(self) -> Mapping[str, jax.Array]:
    return jax.device_put(dict(next(self._iterator)), self._sharding)

  def get_next(self) -> Mapping[str, jax.Array]:
    return next(self)

  def reset(self) -> None:
    self._iterator.reset()

  @property
  def element_spec(self):
    return self._iterator.element_spec

  def save(self, filename) -> None:
    """Saves the position, including shuffle buffers, to a file."""
    self._iterator.save(filename)
    with tf.io.gfile.GFile(f'{filename}.spec', 'w') as f:
      f.write(str(self.element_spec))

  def restore(self, filename) -> None:
    """Restores a saved position.

    Raises:
      ValueError: the position is in a different dataset.
    """
    # Compared first: TensorFlow can hang on a position with batches of another
    # size.
    same = True
    if tf.io.gfile.exists(f'{filename}.spec'):  # T5X has none.
      with tf.io.gfile.GFile(f'{filename}.spec') as f:
        same = f.read() == str(self.element_spec)
    try:
      if same:
        self._iterator.restore(filename)
        return
    except (tf.errors.NotFoundError, tf.errors.InvalidArgumentError):
      pass
    raise ValueError(
      f'{filename}: the saved position in the data is of a different dataset; '
      'keep the task, its options, lengths and BATCH_SIZE as they were, or set '
      'SaveCheckpointConfig.save_dataset = False to restart the data'
    )


def first_batch(
  iterator: Iterator[Mapping[str, jax.Array]], cfg: DatasetConfig
) -> Mapping[str, jax.Array]:
  """Returns a dataset's first batch.

  Raises:
    ValueError: the dataset is empty.
  """
  try:
    return next(iterator)
  except StopIteration:
    raise ValueError(
      f'{cfg.mixture_or_task_name}, split {cfg.split!r}, has less than one '
      f'batch of {cfg.batch_size}: its corpus is empty or too short; check the '
      'source, or lower BATCH_SIZE'
    ) from None
