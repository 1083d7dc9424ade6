"""Automatic feature lengths: what a config without lengths evaluates at."""

import dataclasses
import inspect
from collections.abc import Mapping

import seqio
import tensorflow as tf

from fnet_t5x.runtime import console, datasets


def with_lengths(
  cfg: datasets.DatasetConfig,
  trained: Mapping[str, int] | None = None,
  measured: bool = True,
) -> datasets.DatasetConfig:
  """Returns a config with a length for each feature.

  Lengths that are given stay. Otherwise, they are the maxima over the split, as
  in T5X. But tasks that make examples of a given length, such as prefix LM,
  have no maximum: theirs are the lengths trained at, or the task's own in the
  catalog.

  Args:
    cfg: a task or mixture and its split.
    trained: lengths of the run's training data, if any.
    measured: False leaves maxima to SeqIO's evaluator, which finds them while
      it reads the examples.

  Raises:
    ValueError: they are not given, and cannot be found; or the split is empty.
  """
  if cfg.task_feature_lengths:
    return cfg
  provider = datasets.get_mixture_or_task(cfg)
  if needs_lengths(provider):
    lengths = _known(provider, trained)
  elif measured:
    with console.waiting(f'finding the lengths of {provider.name}'):
      lengths = longest(cfg, provider)
  else:
    return cfg
  console.print_line(
    console.wrapped([f'{provider.name}:', f'feature lengths {lengths}'])
  )
  return dataclasses.replace(cfg, task_feature_lengths=lengths)


def needs_lengths(provider: seqio.Task | seqio.Mixture) -> bool:
  """Returns whether a task's preprocessors depend on the lengths."""
  return any(
    parameter.name == 'sequence_length' and parameter.default is parameter.empty
    for task in seqio.get_subtasks(provider)
    for preprocessor in task.preprocessors
    for parameter in inspect.signature(preprocessor).parameters.values()
  )


def longest(
  cfg: datasets.DatasetConfig, provider: seqio.Task | seqio.Mixture
) -> dict[str, int]:
  """Returns the length in tokens of each feature's longest example.

  Raises:
    ValueError: the split has no example.
  """
  lengths = dict.fromkeys(provider.output_features, 0)
  for task in seqio.get_subtasks(provider):
    if cfg.split not in task.splits:
      continue
    examples = task.get_dataset(
      sequence_length=None,
      split=cfg.split,
      shuffle=False,
      num_epochs=1,
      use_cached=cfg.use_cached,
      seed=cfg.seed,
    ).map(
      lambda example: {name: tf.shape(example[name])[0] for name in lengths}
    )
    for example in examples.as_numpy_iterator():
      for name, length in example.items():
        lengths[name] = max(lengths[name], int(length))
  if not all(lengths.values()):
    raise ValueError(
      f'TASK_FEATURE_LENGTHS is None, and {provider.name}, split '
      f'{cfg.split!r}, has no examples to find the lengths of; set them'
    )
  return lengths


def _known(
  provider: seqio.Task | seqio.Mixture, trained: Mapping[str, int] | None
) -> dict[str, int]:
  # A task of the catalog registers with it.
  from fnet_t5x.tasks import catalog

  features = set(provider.output_features)
  own = catalog.CATALOG.get(provider.name)
  for lengths in (trained, own and own.feature_lengths):
    if lengths and features <= lengths.keys():
      return {name: lengths[name] for name in provider.output_features}
  raise ValueError(
    f'TASK_FEATURE_LENGTHS is None, and {provider.name} makes examples of a '
    'given length; set it, to the lengths that the model was trained at'
  )
