"""Splitting of tokenized documents into segments of bounded length.

Names, parameters and random draws are those of T5's preprocessors (Raffel et
al. 2020, arXiv 1910.10683; package t5 0.9.4): the same tokens and seeds give
the same segments. Parameters can be bound in gin; bindings take effect when
the dataset is built.
"""

import math
from collections.abc import Mapping, Sequence

import gin
import seqio
import tensorflow as tf


def _drop_empty(dataset: tf.data.Dataset, feature_key: str) -> tf.data.Dataset:
  return dataset.filter(lambda x: tf.size(x[feature_key]) > 0)


def _passed_through(
  features: Mapping[str, tf.Tensor],
  feature_key: str,
  passthrough_feature_keys: Sequence[str] | None,
) -> dict[str, tf.Tensor]:
  keys = passthrough_feature_keys or ()
  if feature_key in keys:
    raise ValueError(
      f"feature '{feature_key}' is split and cannot be passed through: remove"
      ' it from passthrough_feature_keys'
    )
  return {k: features[k] for k in keys}


@gin.configurable
def select_random_chunk(
  dataset: tf.data.Dataset,
  max_length: int = 65536,
  feature_key: str = 'targets',
  passthrough_feature_keys: Sequence[str] | None = None,
) -> tf.data.Dataset:
  """Keeps one chunk of each document that is longer than `max_length`.

  The chunk starts at a random multiple of `max_length`; shorter documents stay
  whole, empty ones are dropped. This bounds the memory of later preprocessors
  and keeps a few huge documents from filling whole batches.

  Args:
    dataset: examples with `feature_key`, int32 [length].
    max_length: maximum chunk length, in tokens.
    feature_key: the feature to cut.
    passthrough_feature_keys: other features to keep unchanged. The rest is
      dropped.

  Returns:
    A dataset with one example per non-empty document.
  """

  @seqio.map_over_dataset(num_seeds=1)
  def cut(features, seed):
    tokens = features[feature_key]
    chunk_seed = tf.random.experimental.stateless_split(
      tf.cast(seed, tf.int64)
    )[1]
    chunks = -(-tf.size(tokens) // max_length)
    start = max_length * tf.random.stateless_uniform(
      [], seed=chunk_seed, maxval=chunks, dtype=tf.int32
    )
    return {
      feature_key: tokens[start : start + max_length],
      **_passed_through(features, feature_key, passthrough_feature_keys),
    }

  return cut(_drop_empty(dataset, feature_key))


@gin.configurable
def reduce_concat_tokens(
  dataset: tf.data.Dataset, feature_key: str = 'targets', batch_size: int = 128
) -> tf.data.Dataset:
  """Concatenates every `batch_size` documents, so that few segments are short.

  Args:
    dataset: examples with `feature_key`, int32 [length].
    feature_key: the feature to concatenate. All others are dropped.
    batch_size: number of documents to concatenate.

  Returns:
    A dataset of examples with only `feature_key`. Padding (id 0) is dropped.
  """
  joined = dataset.map(lambda x: x[feature_key]).ragged_batch(batch_size)

  def flatten(documents):
    tokens = documents.flat_values
    return {feature_key: tf.boolean_mask(tokens, tokens != 0)}

  return joined.map(flatten, num_parallel_calls=tf.data.AUTOTUNE)


@gin.configurable
def split_tokens(
  dataset: tf.data.Dataset,
  max_tokens_per_segment: int = gin.REQUIRED,
  min_tokens_per_segment: int | None = None,
  feature_key: str = 'targets',
  passthrough_feature_keys: Sequence[str] | None = None,
) -> tf.data.Dataset:
  """Splits each example into consecutive segments; keeps every token.

  Args:
    dataset: examples with `feature_key`, int32 [length].
    max_tokens_per_segment: length of the segments; the last one of an example
      may be shorter.
    min_tokens_per_segment: if given, the length of an example's segments is
      drawn log-uniformly between this and `max_tokens_per_segment`.
    feature_key: the feature to split.
    passthrough_feature_keys: features to copy into each segment. All others
      are dropped.

  Returns:
    A dataset of segments, none of them empty.
  """

  @seqio.map_over_dataset(num_seeds=1)
  def draw_length(features, seed):
    length = tf.constant(max_tokens_per_segment, tf.int32)
    if min_tokens_per_segment is not None:
      length = tf.cast(
        tf.exp(
          tf.random.stateless_uniform(
            [],
            seed=seed,
            minval=math.log(min_tokens_per_segment),
            maxval=math.log(max_tokens_per_segment),
          )
        ),
        tf.int32,
      )
    return features, length

  def cut(features, length):
    tokens = features[feature_key]
    kept = _passed_through(features, feature_key, passthrough_feature_keys)
    starts = tf.data.Dataset.range(
      0, tf.size(tokens, tf.int64), tf.cast(length, tf.int64)
    )

    def segment(start):
      first = tf.cast(start, tf.int32)
      return {feature_key: tokens[first : first + length], **kept}

    return starts.map(segment)

  return draw_length(_drop_empty(dataset, feature_key)).flat_map(cut)
