"""Registration of training tasks: every source crossed with every objective."""

import dataclasses
import functools
from collections.abc import Mapping

import gin
import seqio

from fnet_t5x.tasks import objective_table, vocabularies


@dataclasses.dataclass(frozen=True)
class Entry:
  """An entry of the catalog.

  Attributes:
    name: name of the task or mixture.
    source: short description of the source.
    objective: short description of the objective.
    feature_lengths: default length in tokens by feature, EOS included.
  """

  name: str
  source: str
  objective: str
  feature_lengths: Mapping[str, int]


@gin.configurable(module='registration')
def task_name(objective: str, source: str = 'sotu') -> str:
  """Returns the name of the task for a source and an objective.

  Args:
    objective: name of the objective (OBJECTIVE), as in gin/objectives/.
    source: name of the source (SOURCE); by default the shipped corpus.
  """
  return f'fnet_{source}_{objective}'


def register(
  source_name: str, summary: str, source: seqio.DataSource
) -> list[Entry]:
  """Registers `fnet_<source>_<objective>` for every objective.

  Nothing is read until one of them is used.

  Args:
    source_name: middle part of the tasks' names.
    summary: short description of the source.
    source: a source whose examples have `text`.

  Returns:
    The catalog entries of the tasks and mixtures.
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
