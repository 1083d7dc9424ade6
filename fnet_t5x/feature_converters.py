"""Feature converters that SeqIO lacks."""

from collections.abc import Mapping

import seqio
import tensorflow as tf

_Specs = Mapping[str, seqio.FeatureConverter.FeatureSpec]
_SPEC = seqio.FeatureConverter.FeatureSpec(dtype=tf.int32)
_LABELS = 'next_sentence_labels'
# By task feature.
_MODEL_FEATURES = {
  'inputs': 'encoder_input_tokens',
  'targets': 'encoder_target_tokens',
  'loss_weights': 'encoder_loss_weights',
}


class MaskedLMFeatureConverter(seqio.FeatureConverter):
  """For encoder-only models that predict some of their inputs' tokens.

  `seqio.EncoderFeatureConverter` takes the loss where the inputs hold the mask
  token, and misses the tokens that are to be predicted but were left as they
  are, or replaced by random ones. This one takes it where `loss_weights` say.
  Names of model features are seqio's.

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
      # Packing takes zeros for padding, and drops them.
      ds = ds.map(shift, num_parallel_calls=tf.data.AUTOTUNE)
    ds = self._pack_or_pad(ds, task_feature_lengths)
    return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)

  def get_model_feature_lengths(
    self, task_feature_lengths: Mapping[str, int]
  ) -> dict[str, int]:
    """Length by model feature; those of aligned task features must be equal.

    Raises:
      ValueError: they are not.
    """
    aligned = {key: task_feature_lengths[key] for key in _MODEL_FEATURES}
    if len(set(aligned.values())) > 1:
      raise ValueError(
        f'the lengths {aligned} differ, but these features belong together'
        ' position by position: give them one length in TASK_FEATURE_LENGTHS'
      )
    lengths = {
      self._model_feature(key): task_feature_lengths[key]
      for key in self.TASK_FEATURES
    }
    if self.pack:
      for key in self.PACKING_FEATURE_DTYPES:
        lengths[key] = task_feature_lengths['inputs']
    return lengths


class NextSentenceFeatureConverter(MaskedLMFeatureConverter):
  """For models that also tell whether the second text continues the first.

  Adds `encoder_type_ids` [length], 1 on the second text and 0 elsewhere, and
  `next_sentence_labels` [1], 1 where the second text is from elsewhere.
  """

  TASK_FEATURES: _Specs = dict.fromkeys(
    (*MaskedLMFeatureConverter.TASK_FEATURES, 'type_ids', _LABELS), _SPEC
  )
  MODEL_FEATURES: _Specs = dict.fromkeys(
    (*MaskedLMFeatureConverter.MODEL_FEATURES, 'encoder_type_ids', _LABELS),
    _SPEC,
  )

  def __init__(self, pack: bool = False, **kwargs):
    """See `seqio.FeatureConverter`.

    Raises:
      ValueError: `pack` is true: there is one label a row.
    """
    if pack:
      raise ValueError(
        'examples with next-sentence labels cannot be packed, there is one'
        ' label a row: set pack to False'
      )
    super().__init__(pack=False, **kwargs)

  def _model_feature(self, key: str) -> str:
    if key == 'type_ids':
      return 'encoder_type_ids'
    return _MODEL_FEATURES.get(key, key)
