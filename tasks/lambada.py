"""LAMBADA (Paperno et al. 2016, arXiv 1606.06031): `fnet_lambada`.

Prediction of the last word of a passage, which people guess from the whole
passage but not from its last sentence alone. Evaluated without fine-tuning:
the inputs are plain text, as in prefix language modeling; the targets are the
word, without EOS.
"""

from collections.abc import Mapping

import seqio
import tensorflow as tf

from fnet_t5x.tasks import (
  evaluation,
  language_modeling,
  metrics,
  objectives,
  postprocessors,
  registration,
  tfds_source,
)

TFDS_NAME = 'lambada:1.0.0'
FEATURE_LENGTHS = {'inputs': 512, 'targets': 16}
# TFDS names LAMBADA's development set `train`; it has the test set's format.
_SPLITS = {'validation': 'train', 'test': 'test'}


@seqio.map_over_dataset
def split_last_word(x: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
  """Splits a `passage` into its last word and the text before it."""
  passage = tf.strings.strip(x['passage'])
  return {
    'inputs': tf.strings.regex_replace(passage, r'\s*\S+$', ''),
    'targets': tf.strings.regex_replace(passage, r'(?s)^.*\s', ''),
  }


def keep_end(
  dataset: tf.data.Dataset,
  sequence_length: Mapping[str, int],
  output_features: Mapping[str, seqio.Feature],
) -> tf.data.Dataset:
  """Truncates the inputs at the start, not at the end, and appends EOS.

  Raises:
    ValueError: a length is missing or below 1.
  """
  objectives.check_feature_lengths(sequence_length, list(output_features))

  def cut(x):
    inputs = language_modeling.preceding(
      x['inputs'],
      tf.size(x['inputs']),
      sequence_length['inputs'],
      output_features['inputs'].vocabulary.eos_id,
    )
    return {**x, 'inputs': inputs}

  return dataset.map(cut, num_parallel_calls=tf.data.AUTOTUNE)


seqio.TaskRegistry.add(
  'fnet_lambada',
  source=tfds_source.TfdsSource(TFDS_NAME, _SPLITS),
  preprocessors=[
    split_last_word,
    seqio.preprocessors.tokenize,
    seqio.CacheDatasetPlaceholder(),
    keep_end,
  ],
  output_features=evaluation.features(targets_end=False),
  postprocess_fn=postprocessors.last_word,
  metric_fns=[metrics.last_word_accuracy, metrics.last_word_perplexity],
)
ENTRIES = (
  registration.Entry(
    'fnet_lambada',
    f'TFDS {TFDS_NAME}',
    'last word of a passage: accuracy, perplexity',
    FEATURE_LENGTHS,
  ),
)
