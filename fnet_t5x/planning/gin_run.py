"""The run that the gin files of a training command describe."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp

from fnet_t5x.gin_root import gin_root
from fnet_t5x.runtime import (
  gin_utils,
  models,
  partitioning,
  trainer,
  utils,
)

# The macros of gin/sizes/.
SIZE = (
  'EMBED_DIM',
  'NUM_HEADS',
  'HEAD_DIM',
  'MLP_DIM',
  'NUM_ENCODER_LAYERS',
  'NUM_DECODER_LAYERS',
)
# Macros that --compare takes from the other model's file.
_COMPARED = ('ARCHITECTURE', *SIZE)
# Macros that a plan does not need.
_OPTIONAL = (
  'MODEL_DIR',
  'TRAIN_STEPS',
  'MIXTURE_OR_TASK_NAME',
  'INITIAL_CHECKPOINT_PATH',
)


@dataclasses.dataclass
class Run:
  """Configuration of a run, as far as a plan needs it.

  Attributes:
    model: model with its optimizer.
    partitioner: partitioner with the run's rules; its mesh is set later.
    trainer_cls: creates the trainer.
    lengths: tokens per row, by model feature.
    batch_size: rows per step.
    total_steps: TRAIN_STEPS; None if the gin files do not set it.
  """

  model: models.BaseModel
  partitioner: partitioning.PjitPartitioner
  trainer_cls: Callable[..., trainer.Trainer]
  lengths: Mapping[str, int]
  batch_size: int
  total_steps: int | None

  @property
  def config(self) -> Any:
    """The network's configuration."""
    return self.model.module.config

  @property
  def batch(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a training batch."""
    return {
      name: jax.ShapeDtypeStruct((self.batch_size, length), jnp.int32)
      for name, length in self.lengths.items()
    }

  @property
  def tokens(self) -> int:
    """Tokens per training step, padding included."""
    return self.batch_size * (
      self.lengths['encoder_input_tokens']
      + self.lengths['decoder_target_tokens']
    )

  @property
  def num_microbatches(self) -> int:
    """Number of microbatches per batch."""
    keywords = gin.get_bindings(trainer.Trainer)
    return keywords.get('num_microbatches') or 1

  def initializer(self) -> utils.TrainStateInitializer:
    """Returns the initializer of the train state, with shapes and layout."""
    batch = self.batch
    return utils.TrainStateInitializer(
      self.model.optimizer_def,
      self.model.get_initial_variables,
      {name: x.shape for name, x in batch.items()},
      self.partitioner,
      {name: x.dtype for name, x in batch.items()},
    )


def train(
  *,
  model,
  train_dataset_cfg,
  partitioner,
  trainer_cls,
  total_steps,
  **unused,
) -> Run:
  """Replaces the engine's `train`, and returns its arguments as a `Run`.

  Gin files refer to it as `__main__.train`.

  Raises:
    ValueError: no feature lengths, a batch size that is not a positive integer,
      or a model without a decoder.
  """
  del unused
  lengths, batch_size = (
    train_dataset_cfg.task_feature_lengths,
    train_dataset_cfg.batch_size,
  )
  if not isinstance(lengths, Mapping):
    raise ValueError(
      f'TASK_FEATURE_LENGTHS is {lengths!r}; a plan needs it, such as '
      "{'inputs': 512, 'targets': 114}"
    )
  if not isinstance(batch_size, int) or batch_size < 1:
    raise ValueError(
      f'BATCH_SIZE is {batch_size!r}; it must be a number of examples'
    )
  converter = model.FEATURE_CONVERTER_CLS(pack=train_dataset_cfg.pack)
  lengths = converter.get_model_feature_lengths(lengths)
  if 'decoder_target_tokens' not in lengths:
    raise ValueError(
      'plans are of encoder-decoder models, and MODEL is a '
      f'{type(model).__name__}: train it, and see the memory that the run '
      'reports when it has compiled'
    )
  return Run(
    model=model,
    partitioner=partitioner,
    trainer_cls=trainer_cls,
    lengths=lengths,
    batch_size=batch_size,
    total_steps=total_steps,
  )


@contextlib.contextmanager
def configured(
  files: Sequence[str],
  bindings: Sequence[str] = (),
  search_paths: Sequence[str] = ('.',),
  compare: str | None = None,
  num_devices: int | None = None,
) -> Iterator[Run]:
  """Yields the run of these gin files; gin stays configured in the block.

  Args:
    files: gin files, as for a training command.
    bindings: gin bindings, as for a training command.
    search_paths: folders to search for the files.
    compare: the gin file of another model: its architecture and size replace
      the run's, everything else is unchanged.
    num_devices: devices of the run, for its share per slice; None for those
      that JAX has.

  Raises:
    ValueError: a file or a binding is not valid gin, or a setting is missing.
    FileNotFoundError: a file is in none of the search paths.
  """
  paths = [*search_paths, gin_root()]
  gin.clear_config()
  main = sys.modules['__main__']
  before = getattr(main, 'train', None)
  main.train = train
  for name in _OPTIONAL:
    gin.bind_parameter(f'{name}/gin.macro.value', None)
  other = {}
  try:
    if compare:
      other = _model_macros(compare, paths)
    gin_utils.parse_gin_flags(paths, files, bindings, finalize_config=False)
    for name, value in other.items():
      gin.bind_parameter(f'{name}/gin.macro.value', value)
    if 'VOCABULARY' in gin_utils.macros_set():
      # No text is read, so the vocabulary's file need not exist.
      gin.bind_parameter('VOCABULARY/gin.macro.value', None)
    _check_configured()
    _set_devices(num_devices)
    yield gin.get_configurable(train)()
  finally:
    gin.clear_config()
    if before is None:
      del main.train
    else:
      main.train = before


def _check_configured():
  if not gin.get_bindings(train, resolve_references=False):
    raise ValueError(
      'the gin files do not configure train: add '
      '--gin_file=gin/runs/pretrain.gin'
    )


def _set_devices(number):
  """Sets the number of devices where gin files compute a mesh from it."""
  with gin.unlock_config(), contextlib.suppress(ValueError):
    # Unknown to gin if no file refers to it; its module has the name that a
    # file imports it by.
    gin.bind_parameter('ici_mesh_shape.num_devices', number)


def _model_macros(name, paths):
  gin_utils.parse_file(name, paths)
  macros = gin_utils.macros_set()
  missing = [macro for macro in _COMPARED if macro not in macros]
  if missing:
    raise ValueError(
      f'--compare={name} does not set {missing[0]}: name a file in gin/models/'
    )
  return {
    macro: gin.query_parameter(f'{macro}/gin.macro.value')
    for macro in _COMPARED
  }
