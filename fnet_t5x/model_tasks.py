"""Which kinds of models train on which tasks.

Checked before anything is compiled: from gin's text, where macros say it, and
from the features of any task.
"""

from collections.abc import Collection
from typing import Any

DECODER_ONLY = 'decoder-only'
ENCODER_DECODER = 'encoder-decoder'
ENCODER_ONLY = 'encoder-only'
CLASSIFICATION = 'classification'
# By the name of the class that MODEL constructs.
_MODELS = {
  'DecoderOnlyModel': DECODER_ONLY,
  'EncoderDecoderModel': ENCODER_DECODER,
  'EncoderOnlyModel': ENCODER_ONLY,
  'ClassificationModel': CLASSIFICATION,
}
# By the name of the feature converter, which subclasses do not share.
_CONVERTERS = {
  'DecoderFeatureConverter': DECODER_ONLY,
  'EncDecFeatureConverter': ENCODER_DECODER,
  'PretrainingFeatureConverter': ENCODER_ONLY,
  'ClassificationFeatureConverter': CLASSIFICATION,
  'RegressionFeatureConverter': CLASSIFICATION,
}
# By OBJECTIVE.
_OBJECTIVES = {
  'bart': ENCODER_DECODER,
  'causal_lm': DECODER_ONLY,
  'fixed_prefix_lm': ENCODER_DECODER,
  'masked_lm': ENCODER_ONLY,
  'masked_lm_nsp': ENCODER_ONLY,
  'prefix_lm': ENCODER_DECODER,
  'span_corruption': ENCODER_DECODER,
  'ul2': ENCODER_DECODER,
}
_TASK_NAME = '@registration.task_name()'
_ENCODER_FILES = 'gin/models/fnet_base.gin (or fnet_large.gin, fnet_tiny.gin)'
# Also trained on: a decoder-only model reads inputs and targets as one text, as
# in T5X.
_ALSO = {DECODER_ONLY: (ENCODER_DECODER,)}
_REMEDIES = {
  DECODER_ONLY: 'use gin/models/gpt2_base.gin (or another of gpt2_*)',
  ENCODER_DECODER: 'use gin/models/fnet_t5_base.gin (or another of fnet_t5_* '
  'and t5_*)',
  ENCODER_ONLY: f'use {_ENCODER_FILES}',
  CLASSIFICATION: f'use {_ENCODER_FILES} with NUM_CLASSES and a '
  'ClassificationModel',
}
_OTHER_OBJECTIVES = {
  ENCODER_DECODER: 'prefix_lm',
  ENCODER_ONLY: 'masked_lm',
}


def check_macros(model: Any, objective: Any, task: Any) -> None:
  """Checks the values of macros, as gin's parser reads them.

  Args:
    model: MODEL.
    objective: OBJECTIVE.
    task: MIXTURE_OR_TASK_NAME; checked only if the objective makes its name.

  Raises:
    ValueError: the model does not take the objective's features.
  """
  if repr(task) != _TASK_NAME or not isinstance(objective, str):
    return
  own = _MODELS.get(repr(model).removesuffix('()').rpartition('.')[2])
  _check(own, _OBJECTIVES.get(objective), f'OBJECTIVE {objective!r}')


def check_features(model: Any, task: str, features: Collection[str]) -> None:
  """Checks a task's features.

  Args:
    model: the model; one with a feature converter of its own is not checked.
    task: name of the task, for the message.
    features: names of its output features.

  Raises:
    ValueError: the model does not take these features.
  """
  converter = model.FEATURE_CONVERTER_CLS(pack=False)
  own = _CONVERTERS.get(type(converter).__name__)
  _check(own, _kind(set(features)), task)


def _kind(features: set[str]) -> str | None:
  if features == {'targets'}:
    return DECODER_ONLY
  if 'loss_weights' in features:
    return ENCODER_ONLY
  if 'label' in features:
    return CLASSIFICATION
  return ENCODER_DECODER if features == {'inputs', 'targets'} else None


def _check(own: str | None, needed: str | None, what: str) -> None:
  if own is None or needed is None or own == needed:
    return
  if needed in _ALSO.get(own, ()):
    return
  article = 'an' if own.startswith('e') else 'a'
  instead = ''
  if needed == DECODER_ONLY and own in _OTHER_OBJECTIVES:
    other = _OTHER_OBJECTIVES[own]
    instead = (
      f', or {other}, which trains this one (gin/objectives/{other}.gin)'
    )
  raise ValueError(
    f'{what} trains {needed} models, and MODEL is {article} {own} model: '
    f'{_REMEDIES[needed]}{instead}'
  )
