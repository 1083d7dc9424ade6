"""Table of objectives by name: everything of a task but its source.

A task is a source crossed with an objective, `fnet_<source>_<objective>`: the
source's documents are tokenized to `targets` (int32 [length], no EOS),
optionally cached, and passed to the objective's preprocessors.
"""

import dataclasses
import functools
import types
from collections.abc import Callable, Mapping

import seqio

from fnet_t5x import feature_converters
from fnet_t5x.tasks import (
  causal_lm,
  masked_lm,
  metrics,
  next_sentence,
  objectives,
  text_infilling,
  ul2,
)


@dataclasses.dataclass(frozen=True)
class Objective:
  """An objective: the steps from tokenized documents to a task's examples.

  Attributes:
    name: last part of the tasks' names.
    summary: one-line description.
    preprocessors: those after `seqio.CacheDatasetPlaceholder`, including the
      one that appends EOS.
    features: makes the output features, given the vocabulary.
    feature_lengths: default length in tokens by feature, EOS included.
    feature_converter: converts the task's features to model features.
    postprocess_fn: postprocessor, for SeqIO's evaluator.
    metric_fns: metric functions, for SeqIO's evaluator.
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
    summary: one-line description.
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
  """Returns an encoder-decoder's features, both ending in EOS."""
  return {
    key: seqio.Feature(vocabulary, add_eos=True)
    for key in ('inputs', 'targets')
  }


_UL2_LENGTHS = {'inputs': 512, 'targets': 512}


def _span_denoiser(mode: str, span_length: int, percent: int) -> Objective:
  return Objective(
    name=f'ul2_{mode.lower()}_{span_length}_{percent}',
    summary=f"UL2's {mode}-denoiser: spans of {span_length}, {percent} %",
    preprocessors=(
      functools.partial(
        ul2.span_denoiser,
        mode=mode,
        mean_noise_span_length=float(span_length),
        noise_density=percent / 100,
      ),
      seqio.preprocessors.append_eos_after_trim,
    ),
    features=inputs_and_targets,
    feature_lengths=_UL2_LENGTHS,
  )


_OBJECTIVES = [
  Objective(
    name='span_corruption',
    summary="T5's span corruption: predict the missing spans",
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
  Objective(
    name='fixed_prefix_lm',
    summary='prefix language model, fixed prefix length, to compare with GPT-2',
    preprocessors=(
      objectives.fixed_prefix_lm,
      seqio.preprocessors.append_eos_after_trim,
    ),
    features=inputs_and_targets,
    feature_lengths={'inputs': 512, 'targets': 512},
  ),
  Objective(
    name='bart',
    summary="BART's text infilling and sentence permutation",
    preprocessors=(
      text_infilling.text_infilling,
      seqio.preprocessors.append_eos_after_trim,
    ),
    features=inputs_and_targets,
    feature_lengths={'inputs': 512, 'targets': 512},
  ),
  Objective(
    name='causal_lm',
    summary="GPT's causal language model, for decoder-only models",
    preprocessors=(causal_lm.causal_lm,),
    features=lambda vocabulary: {
      'targets': seqio.Feature(vocabulary, add_eos=True)
    },
    feature_lengths={'targets': 1024},
    feature_converter=seqio.LMFeatureConverter,
  ),
  Objective(
    name='masked_lm',
    summary="BERT's masked language model",
    preprocessors=(masked_lm.masked_lm,),
    features=masked_lm.features,
    feature_lengths={'inputs': 512, 'targets': 512, 'loss_weights': 512},
    feature_converter=feature_converters.MaskedLMFeatureConverter,
    postprocess_fn=masked_lm.count_predicted_tokens,
  ),
  Objective(
    name='masked_lm_nsp',
    summary="FNet's pretraining: masked LM and next-sentence prediction",
    preprocessors=(next_sentence.masked_lm_nsp,),
    features=next_sentence.features,
    feature_lengths={
      'inputs': 512,
      'targets': 512,
      'loss_weights': 512,
      'type_ids': 512,
      'next_sentence_labels': 1,
    },
    feature_converter=feature_converters.NextSentenceFeatureConverter,
    postprocess_fn=masked_lm.count_predicted_tokens,
  ),
  *(
    _span_denoiser(*denoiser)
    for denoiser in (
      ('R', 3, 15),
      ('R', 8, 15),
      ('X', 3, 50),
      ('X', 8, 50),
      ('X', 64, 15),
      ('X', 64, 50),
    )
  ),
  Objective(
    name='ul2_s_25',
    summary="UL2's S-denoiser: prefix-LM, the last 25 %",
    preprocessors=(
      functools.partial(ul2.prefix_denoiser, noise_density=0.25),
      seqio.preprocessors.append_eos_after_trim,
    ),
    features=inputs_and_targets,
    feature_lengths=_UL2_LENGTHS,
  ),
]

OBJECTIVES: Mapping[str, Objective] = types.MappingProxyType(
  {objective.name: objective for objective in _OBJECTIVES}
)
# 20 % S-denoiser, which section 4.5 of the paper finds best; public
# reproductions (Finnish-NLP's ul2 models) use 40 % each for R and X.
_UL2 = ObjectiveMixture(
  name='ul2',
  summary="UL2's mixture of denoisers, with mode tokens",
  rates={
    'ul2_r_3_15': 0.2,
    'ul2_r_8_15': 0.2,
    'ul2_x_3_50': 0.1,
    'ul2_x_8_50': 0.1,
    'ul2_x_64_15': 0.1,
    'ul2_x_64_50': 0.1,
    'ul2_s_25': 0.2,
  },
  feature_lengths=_UL2_LENGTHS,
)
MIXTURES: Mapping[str, ObjectiveMixture] = types.MappingProxyType(
  {_UL2.name: _UL2}
)
