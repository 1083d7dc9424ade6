"""The objectives by name: what a task needs besides its source.

A task is a source crossed with an objective, `fnet_<source>_<objective>`: the
source's documents are tokenized to `targets` (int32 [length], no EOS), cached
or not, and handed to the objective's preprocessors.
"""

import dataclasses
import types
from collections.abc import Callable, Mapping

import seqio

from fnet_t5x.tasks import metrics, objectives


@dataclasses.dataclass(frozen=True)
class Objective:
  """How tokenized documents become a task's examples.

  Attributes:
    name: last part of the tasks' names.
    summary: what it asks of the model, in a line.
    preprocessors: what runs after `seqio.CacheDatasetPlaceholder`, the
      appending of EOS included.
    features: the task's output features, made of its vocabulary.
    feature_lengths: default length in tokens by feature, EOS included.
    feature_converter: what makes model features of the task's features.
    postprocess_fn: the task's, for seqio's evaluator.
    metric_fns: the task's, for seqio's evaluator.
  """

  name: str
  summary: str
  preprocessors: tuple[Callable, ...]
  features: Callable[[seqio.Vocabulary], Mapping[str, seqio.Feature]]
  feature_lengths: Mapping[str, int]
  feature_converter: type[seqio.FeatureConverter] = seqio.EncDecFeatureConverter
  postprocess_fn: Callable | None = metrics.count_target_tokens
  metric_fns: tuple[Callable, ...] = (metrics.target_loss,)


@dataclasses.dataclass(frozen=True)
class ObjectiveMixture:
  """Several objectives on the same documents, as a SeqIO mixture.

  Attributes:
    name: last part of the mixtures' names.
    summary: what it is, in a line.
    rates: share of the examples by objective; they sum to 1.
    feature_lengths: default length in tokens by feature, EOS included.
  """

  name: str
  summary: str
  rates: Mapping[str, float]
  feature_lengths: Mapping[str, int]


def inputs_and_targets(
  vocabulary: seqio.Vocabulary,
) -> dict[str, seqio.Feature]:
  """An encoder-decoder's features, both ending in EOS."""
  return {
    key: seqio.Feature(vocabulary, add_eos=True)
    for key in ('inputs', 'targets')
  }


_OBJECTIVES = [
  Objective(
    name='span_corruption',
    summary="T5's span corruption: fill in the missing spans",
    preprocessors=(
      objectives.span_corruption,
      seqio.preprocessors.append_eos_after_trim,
    ),
    features=inputs_and_targets,
    feature_lengths={'inputs': 512, 'targets': 114},
  ),
  Objective(
    name='prefix_lm',
    summary="T5's prefix language model: continue a random prefix",
    preprocessors=(
      objectives.prefix_lm,
      seqio.preprocessors.append_eos_after_trim,
    ),
    features=inputs_and_targets,
    feature_lengths={'inputs': 512, 'targets': 512},
  ),
]

OBJECTIVES: Mapping[str, Objective] = types.MappingProxyType(
  {objective.name: objective for objective in _OBJECTIVES}
)
MIXTURES: Mapping[str, ObjectiveMixture] = types.MappingProxyType({})
