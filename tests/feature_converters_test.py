"""Feature converters: loss weights and labels reach the model unchanged."""

import numpy as np
import pytest
import seqio
import tensorflow as tf
import token_documents

from fnet_t5x import feature_converters
from fnet_t5x.tasks import masked_lm, next_sentence

_EXAMPLES = [
  {
    'inputs': [8, 9, 5, 3, 6],
    'targets': [8, 7, 4, 3, 6],
    'loss_weights': [0, 1, 1, 0, 0],
  },
  {'inputs': [8, 3, 6], 'targets': [8, 3, 6], 'loss_weights': [0, 1, 0]},
  {'inputs': [8, 9, 6], 'targets': [8, 2, 6], 'loss_weights': [0, 1, 0]},
]


def _dataset(examples) -> tf.data.Dataset:
  return tf.data.Dataset.from_generator(
    lambda: iter(examples),
    output_signature={
      key: tf.TensorSpec([None], tf.int32) for key in examples[0]
    },
  )


def _converted(converter, examples, lengths):
  return [
    {k: v.tolist() for k, v in row.items()}
    for row in converter(_dataset(examples), lengths).as_numpy_iterator()
  ]


@pytest.mark.slow
def test_padded():
  lengths = dict.fromkeys(_EXAMPLES[0], 6)
  converter = feature_converters.MaskedLMFeatureConverter(pack=False)
  rows = _converted(converter, _EXAMPLES, lengths)
  assert rows[0] == {
    'encoder_input_tokens': [8, 9, 5, 3, 6, 0],
    'encoder_target_tokens': [8, 7, 4, 3, 6, 0],
    'encoder_loss_weights': [0, 1, 1, 0, 0, 0],
  }
  assert len(rows) == 3
  assert set(converter.get_model_feature_lengths(lengths)) == set(rows[0])


@pytest.mark.slow
def test_packed():
  lengths = dict.fromkeys(_EXAMPLES[0], 9)
  converter = feature_converters.MaskedLMFeatureConverter(pack=True)
  rows = _converted(converter, _EXAMPLES, lengths)
  assert rows == [
    {
      'encoder_input_tokens': [8, 9, 5, 3, 6, 8, 3, 6, 0],
      'encoder_target_tokens': [8, 7, 4, 3, 6, 8, 3, 6, 0],
      'encoder_loss_weights': [0, 1, 1, 0, 0, 0, 1, 0, 0],
      'encoder_segment_ids': [1, 1, 1, 1, 1, 2, 2, 2, 0],
      'encoder_positions': [0, 1, 2, 3, 4, 0, 1, 2, 0],
    },
    {
      'encoder_input_tokens': [8, 9, 6, 0, 0, 0, 0, 0, 0],
      'encoder_target_tokens': [8, 2, 6, 0, 0, 0, 0, 0, 0],
      'encoder_loss_weights': [0, 1, 0, 0, 0, 0, 0, 0, 0],
      'encoder_segment_ids': [1, 1, 1, 0, 0, 0, 0, 0, 0],
      'encoder_positions': [0, 1, 2, 0, 0, 0, 0, 0, 0],
    },
  ]
  assert set(converter.get_model_feature_lengths(lengths)) == set(rows[0])


@pytest.mark.slow
@pytest.mark.parametrize('pack', [False, True])
def test_masked_lm_keeps_its_weights(pack):
  vocabulary = token_documents.VOCABULARY
  examples = token_documents.examples(
    masked_lm.masked_lm,
    token_documents.random_documents([30] * 40),
    dict.fromkeys(_EXAMPLES[0], 32),
    features=masked_lm.features(vocabulary),
  )
  lengths = dict.fromkeys(_EXAMPLES[0], 100 if pack else 32)
  ours = feature_converters.MaskedLMFeatureConverter(pack=pack)
  rows = _converted(ours, examples, lengths)
  assert len(rows) == (14 if pack else 40)
  triples = [
    list(zip(*(e[key] for key in _EXAMPLES[0]), strict=True)) for e in examples
  ]
  converted = [
    triple
    for row in rows
    for triple in zip(
      row['encoder_input_tokens'],
      row['encoder_target_tokens'],
      row['encoder_loss_weights'],
      strict=True,
    )
    if triple[0]
  ]
  assert converted == token_documents.joined(triples)
  # SeqIO's own converter computes the loss on mask tokens only, about 80 %.
  seqio_s = seqio.EncoderFeatureConverter(
    mask_id=vocabulary.vocab_size - 1, pack=pack
  )
  theirs = [
    row['encoder_loss_weights']
    for row in _converted(
      seqio_s,
      [{k: e[k] for k in ('inputs', 'targets')} for e in examples],
      {k: lengths[k] for k in ('inputs', 'targets')},
    )
  ]
  ours = np.array([row['encoder_loss_weights'] for row in rows])
  assert (ours >= theirs).all()
  assert 0.6 < np.sum(theirs) / ours.sum() < 0.95


@pytest.mark.slow
def test_next_sentence_pairs():
  vocabulary = token_documents.VOCABULARY
  features = next_sentence.features(vocabulary)
  lengths = {
    key: 1 if key == 'next_sentence_labels' else 24 for key in features
  }
  examples = token_documents.examples(
    next_sentence.masked_lm_nsp,
    token_documents.random_documents([50] * 8),
    lengths,
    features=features,
  )
  converter = feature_converters.NextSentenceFeatureConverter(pack=False)
  rows = _converted(converter, examples, lengths)
  names = {
    'encoder_input_tokens': 'inputs',
    'encoder_target_tokens': 'targets',
    'encoder_loss_weights': 'loss_weights',
    'encoder_type_ids': 'type_ids',
    'next_sentence_labels': 'next_sentence_labels',
  }
  for row, example in zip(rows, examples, strict=True):
    assert set(row) == set(names)
    for name, key in names.items():
      padding = lengths[key] - len(example[key])
      assert row[name] == example[key] + [0] * padding
  assert set(converter.get_model_feature_lengths(lengths)) == set(names)


def test_pairs_cannot_be_packed():
  with pytest.raises(ValueError, match='cannot be packed'):
    feature_converters.NextSentenceFeatureConverter(pack=True)


def test_different_lengths_are_an_error():
  converter = feature_converters.MaskedLMFeatureConverter(pack=False)
  lengths = {'inputs': 8, 'targets': 8, 'loss_weights': 9}
  with pytest.raises(ValueError, match=r"'loss_weights': 9.* same length"):
    _converted(converter, _EXAMPLES, lengths)


@pytest.mark.slow
@pytest.mark.parametrize('objective', [masked_lm, next_sentence])
def test_pretraining_converts_as_the_task_needs(objective):
  chosen = {
    masked_lm: feature_converters.MaskedLMFeatureConverter,
    next_sentence: feature_converters.NextSentenceFeatureConverter,
  }[objective]
  examples = [{key: [1, 0, 1] for key in objective.features(None)}]
  lengths = dict.fromkeys(examples[0], 4)
  converters = [
    kind(pack=False)
    for kind in (chosen, feature_converters.PretrainingFeatureConverter)
  ]
  one, other = (_converted(c, examples, lengths) for c in converters)
  assert one == other
  one, other = (c.get_model_feature_lengths(lengths) for c in converters)
  assert one == other


@pytest.mark.slow
def test_pretraining_packs_tokens_and_refuses_to_pack_pairs():
  converter = feature_converters.PretrainingFeatureConverter(pack=True)
  lengths = dict.fromkeys(_EXAMPLES[0], 9)
  rows = _converted(converter, _EXAMPLES, lengths)
  assert rows[0]['encoder_segment_ids'] == [1, 1, 1, 1, 1, 2, 2, 2, 0]
  lengths |= {'type_ids': 9, 'next_sentence_labels': 1}
  with pytest.raises(ValueError, match='PACK = False'):
    converter.get_model_feature_lengths(lengths)
