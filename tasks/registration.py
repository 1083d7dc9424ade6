"""Crosses sources with objectives: the tasks that train on documents."""

import dataclasses
import functools
from collections.abc import Mapping

import gin
import seqio

from fnet_t5x.tasks import objective_table, vocabularies


@dataclasses.dataclass(frozen=True)
class Entry:
  """A line of the catalogue.

  Attributes:
    name: the task's or mixture's.
    source: where its examples come from.
    objective: what it asks of a model.
    feature_lengths: default length in tokens by feature, EOS included.
  """

  name: str
  source: str
  objective: str
  feature_lengths: Mapping[str, int]


@gin.configurable(module='registration')
def task_name(objective: str, source: str = 'sotu') -> str:
  """The name of the task of a source and an objective.

  Args:
    objective: a name of gin/objectives/ (OBJECTIVE).
    source: a source's name (SOURCE); without one, the shipped corpus.
  """
  return f'fnet_{source}_{objective}'


def register(
  source_name: str, summary: str, source: seqio.DataSource
) -> list[Entry]:
  """Registers `fnet_<source>_<objective>` for every objective.

  Nothing is read before one of them is used.

  Args:
    source_name: middle part of the tasks' names.
    summary: what the source is, in a few words.
    source: its examples have `text`.

  Returns:
    The catalogue's lines of the tasks and mixtures.
  """
  entries = []
  vocabulary = vocabularies.DefaultVocabulary()
  for objective in objective_table.OBJECTIVES.values():
    name = task_name(objective.name, source_name)
    seqio.TaskRegistry.add(
      name,
      source=source,
      preprocessors=[
        functools.partial(
          seqio.preprocessors.rekey, key_map={'targets': 'text'}
        ),
        functools.partial(
          seqio.preprocessors.tokenize, copy_pretokenized=False
        ),
        seqio.CacheDatasetPlaceholder(),
        *objective.preprocessors,
      ],
      output_features=objective.features(vocabulary),
      postprocess_fn=objective.postprocess_fn,
      metric_fns=list(objective.metric_fns),
    )
    entries.append(
      Entry(name, summary, objective.summary, objective.feature_lengths)
    )
  for mixture in objective_table.MIXTURES.values():
    name = task_name(mixture.name, source_name)
    seqio.MixtureRegistry.add(
      name,
      [(task_name(k, source_name), rate) for k, rate in mixture.rates.items()],
    )
    entries.append(
      Entry(name, summary, mixture.summary, mixture.feature_lengths)
    )
  return entries
