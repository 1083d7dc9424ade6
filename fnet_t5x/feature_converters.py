"""Feature converters that SeqIO lacks."""

import types
from collections.abc import Mapping

import seqio
import tensorflow as tf

_Specs = Mapping[str, seqio.FeatureConverter.FeatureSpec]
_SPEC = seqio.FeatureConverter.FeatureSpec(dtype=tf.int32)
_FLOAT_SPEC = seqio.FeatureConverter.FeatureSpec(dtype=tf.float32)
_LABELS = 'next_sentence_labels'
# By task feature.
_MODEL_FEATURES = {
  'inputs': 'encoder_input_tokens',
  'targets': 'encoder_target_tokens',
  'loss_weights': 'encoder_loss_weights',
}


def _check_aligned(lengths: Mapping[str, int]) -> None:
  if len(set(lengths.values())) > 1:
    raise ValueError(
      f'the lengths {lengths} differ, but these features are aligned token by'
      ' token: give them the same length in TASK_FEATURE_LENGTHS'
    )


def _refuse_packing(pack: bool, labels: str) -> None:
  """Raises ValueError if `pack` is true: there is one label per row."""
  if pack:
    raise ValueError(
      f'examples with {labels} cannot be packed, since there is one label per'
      ' row: set pack to False (PACK = False)'
    )


class MaskedLMFeatureConverter(seqio.FeatureConverter):
  """Converter for encoder-only models that predict some of their input tokens.

  `seqio.EncoderFeatureConverter` computes the loss where the input is the mask
  token, and so misses tokens to be predicted that were kept or replaced by
  random ones. This converter uses the task's `loss_weights` instead. Names of
  model features are SeqIO's.

  Example, packed, with [CLS] = 8, [SEP] = 6, [MASK] = 9:

    [{'inputs': [8, 9, 5, 3, 6], 'targets': [8, 7, 4, 3, 6],
      'loss_weights': [0, 1, 1, 0, 0]},
     {'inputs': [8, 3, 6], 'targets': [8, 3, 6], 'loss_weights': [0, 1, 0]}]

  becomes, at length 9,

    {'encoder_input_tokens':  [8, 9, 5, 3, 6, 8, 3, 6, 0],
     'encoder_target_tokens': [8, 7, 4, 3, 6, 8, 3, 6, 0],
     'encoder_loss_weights':  [0, 1, 1, 0, 0, 0, 1, 0, 0],
     'encoder_segment_ids':   [1, 1, 1, 1, 1, 2, 2, 2, 0],
     'encoder_positions':     [0, 1, 2, 3, 4, 0, 1, 2, 0]}
  """

  TASK_FEATURES: _Specs = dict.fromkeys(_MODEL_FEATURES, _SPEC)
  MODEL_FEATURES: _Specs = dict.fromkeys(_MODEL_FEATURES.values(), _SPEC)
  PACKING_FEATURE_DTYPES: Mapping[str, tf.dtypes.DType] = {
    'encoder_segment_ids': tf.int32,
    'encoder_positions': tf.int32,
  }

  def _model_feature(self, key: str) -> str:
    return _MODEL_FEATURES[key]

  def _convert_features(
    self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    """Pads or packs, and renames."""

    def shift(example):
      return {
        key: value + 1 if key == 'loss_weights' else value
        for key, value in example.items()
      }

    def convert(example):
      converted = {
        self._model_feature(key): example[key] for key in self.TASK_FEATURES
      }
      if self.pack:
        weights = example['loss_weights']
        converted['encoder_loss_weights'] = tf.maximum(weights - 1, 0)
        converted['encoder_segment_ids'] = example['inputs_segment_ids']
        converted['encoder_positions'] = example['inputs_positions']
      return converted

    if self.pack:
      # Packing drops zeros as padding.
      ds = ds.map(shift, num_parallel_calls=tf.data.AUTOTUNE)
    ds = self._pack_or_pad(ds, task_feature_lengths)
    return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)

  def get_model_feature_lengths(
    self, task_feature_lengths: Mapping[str, int]
  ) -> dict[str, int]:
    """Returns the length of each model feature.

    Raises:
      ValueError: if lengths of aligned task features differ.
    """
    aligned = {key: task_feature_lengths[key] for key in _MODEL_FEATURES}
    _check_aligned(aligned)
    lengths = {
      self._model_feature(key): task_feature_lengths[key]
      for key in self.TASK_FEATURES
    }
    if self.pack:
      for key in self.PACKING_FEATURE_DTYPES:
        lengths[key] = task_feature_lengths['inputs']
    return lengths


class NextSentenceFeatureConverter(MaskedLMFeatureConverter):
  """Converter for masked LMs that also predict the next-sentence label.

  Adds `encoder_type_ids` [length], 1 on the second text and 0 elsewhere, and
  `next_sentence_labels` [1], 1 if the second text does not continue the first.
  """

  TASK_FEATURES: _Specs = dict.fromkeys(
    (*MaskedLMFeatureConverter.TASK_FEATURES, 'type_ids', _LABELS), _SPEC
  )
  MODEL_FEATURES: _Specs = dict.fromkeys(
    (*MaskedLMFeatureConverter.MODEL_FEATURES, 'encoder_type_ids', _LABELS),
    _SPEC,
  )

  def __init__(self, pack: bool = False, **kwargs):
    """Takes the arguments of `seqio.FeatureConverter`.

    Raises:
      ValueError: if `pack` is true: there is one label per row.
    """
    _refuse_packing(pack, 'next-sentence labels')
    super().__init__(pack=False, **kwargs)

  def _model_feature(self, key: str) -> str:
    if key == 'type_ids':
      return 'encoder_type_ids'
    return _MODEL_FEATURES.get(key, key)


class PretrainingFeatureConverter(seqio.FeatureConverter):
  """Converter for encoder-only models, for masked LM with or without pairs.

  Chooses `NextSentenceFeatureConverter` if `task_feature_lengths` has the
  next-sentence label, and `MaskedLMFeatureConverter` otherwise, as
  `seqio.DecoderFeatureConverter` chooses by these lengths.
  """

  TASK_FEATURES: _Specs = MaskedLMFeatureConverter.TASK_FEATURES
  # Those of pairs are there only if the task has pairs.
  MODEL_FEATURES: _Specs = NextSentenceFeatureConverter.MODEL_FEATURES
  PACKING_FEATURE_DTYPES: Mapping[str, tf.dtypes.DType] = (
    MaskedLMFeatureConverter.PACKING_FEATURE_DTYPES
  )

  def __init__(self, pack: bool = False, **kwargs):
    """Takes the arguments of `seqio.FeatureConverter`."""
    self._arguments = {'pack': pack, **kwargs}
    super().__init__(**self._arguments)

  def __call__(
    self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    """Converts a dataset; the chosen converter checks it."""
    return self._chosen(task_feature_lengths)(ds, task_feature_lengths)

  def _chosen(
    self, task_feature_lengths: Mapping[str, int]
  ) -> seqio.FeatureConverter:
    pairs = _LABELS in task_feature_lengths
    kind = NextSentenceFeatureConverter if pairs else MaskedLMFeatureConverter
    return kind(**self._arguments)

  def _convert_features(
    self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    return self(ds, task_feature_lengths)

  def get_model_feature_lengths(
    self, task_feature_lengths: Mapping[str, int]
  ) -> dict[str, int]:
    """Returns the length of each model feature of the chosen converter."""
    return self._chosen(task_feature_lengths).get_model_feature_lengths(
      task_feature_lengths
    )


class ClassificationFeatureConverter(seqio.FeatureConverter):
  """Converter for encoders that predict a class per example.

  `inputs` and `type_ids` become `encoder_input_tokens` and `encoder_type_ids`,
  padded with zeros; `label`, of shape [1], becomes the scalar `labels`, so that
  a batch has shape [batch]. Task features have rank 1, since SeqIO's evaluator
  measures their lengths.
  """

  TASK_FEATURES: _Specs = types.MappingProxyType(
    {'inputs': _SPEC, 'type_ids': _SPEC, 'label': _SPEC}
  )
  MODEL_FEATURES: _Specs = types.MappingProxyType(
    {
      'encoder_input_tokens': _SPEC,
      'encoder_type_ids': _SPEC,
      'labels': seqio.FeatureConverter.FeatureSpec(dtype=tf.int32, rank=0),
    }
  )
  PACKING_FEATURE_DTYPES = None

  def __init__(self, pack: bool = False, **kwargs):
    """Takes the arguments of `seqio.FeatureConverter`.

    Raises:
      ValueError: if `pack` is true: there is one label per row.
    """
    _refuse_packing(pack, 'labels')
    super().__init__(pack=False, **kwargs)

  def _convert_features(
    self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    """Pads and renames."""

    def convert(example):
      return {
        'encoder_input_tokens': example['inputs'],
        'encoder_type_ids': example['type_ids'],
        'labels': example['label'][0],
      }

    ds = self._pack_or_pad(ds, task_feature_lengths)
    return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)

  def get_model_feature_lengths(
    self, task_feature_lengths: Mapping[str, int]
  ) -> dict[str, int]:
    """Returns the length of each model feature.

    Raises:
      ValueError: if lengths of aligned task features differ.
    """
    aligned = {key: task_feature_lengths[key] for key in ('inputs', 'type_ids')}
    _check_aligned(aligned)
    return {
      'encoder_input_tokens': aligned['inputs'],
      'encoder_type_ids': aligned['type_ids'],
      'labels': task_feature_lengths['label'],
    }


class RegressionFeatureConverter(ClassificationFeatureConverter):
  """Converter for encoders that predict a float32 score per example."""

  TASK_FEATURES: _Specs = types.MappingProxyType(
    {**ClassificationFeatureConverter.TASK_FEATURES, 'label': _FLOAT_SPEC}
  )
  MODEL_FEATURES: _Specs = types.MappingProxyType(
    {
      **ClassificationFeatureConverter.MODEL_FEATURES,
      'labels': seqio.FeatureConverter.FeatureSpec(dtype=tf.float32, rank=0),
    }
  )
