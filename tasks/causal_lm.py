"""Causal language modeling: targets only, for decoder-only models."""

from collections.abc import Mapping

import gin
import seqio
import tensorflow as tf

from fnet_t5x.tasks import chunking, objectives


@gin.configurable
def causal_lm(
  dataset: tf.data.Dataset,
  sequence_length: Mapping[str, int],
  output_features: Mapping[str, seqio.Feature],
) -> tf.data.Dataset:
  """GPT's objective: predict every token from the ones before it.

  Documents, each ended by EOS (if the feature has `add_eos`), are split into
  segments of the targets' length. No token is lost, and none is added at a
  split: EOS marks the end of a document. Hence no `append_eos_after_trim`
  follows.

  Args:
    dataset: examples with tokenized `targets`. Empty ones are dropped.
    sequence_length: length by feature.
    output_features: the task's features.

  Raises:
    ValueError: a length is below 1.
  """
  objectives.check_feature_lengths(sequence_length, ['targets'])
  feature = output_features['targets']

  def end(features):
    tokens = features['targets']
    if feature.add_eos:
      eos = tf.constant([feature.vocabulary.eos_id], tokens.dtype)
      tokens = tf.concat([tokens, eos], 0)
    return {'targets': tokens}

  return chunking.split_tokens(
    dataset.filter(lambda x: tf.size(x['targets']) > 0).map(
      end, num_parallel_calls=tf.data.AUTOTUNE
    ),
    feature_key='targets',
    max_tokens_per_segment=sequence_length['targets'],
  )
