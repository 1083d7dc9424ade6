"""Held-out loss of whole documents, per byte and per word of their text.

Each document is split into windows: the targets are consecutive tokens, the
inputs the tokens before them. Every token is scored exactly once, with as much
context as fits. Bytes and words are counted in the original text, before the
vocabulary's normalization.
"""

from collections.abc import Iterable, Mapping

import seqio
import tensorflow as tf

from fnet_t5x.tasks import (
  evaluation,
  metrics,
  objectives,
  postprocessors,
  registration,
)

FEATURE_LENGTHS = {'inputs': 512, 'targets': 512}


def _word_starts(text: tf.Tensor) -> tf.Tensor:
  """Returns the byte offset of each word of a text."""
  codes = tf.io.decode_raw(text, tf.uint8)
  is_space = (codes == 32) | ((codes >= 9) & (codes <= 13))
  after_space = tf.concat([[True], is_space], 0)[:-1]
  return tf.where(~is_space & after_space)[:, 0]


def tokens_with_extents(
  dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]
) -> tf.data.Dataset:
  """Tokenizes `text` and counts the bytes and words that each token covers.

  A token covers the text from its first byte to the next token's. So the bytes
  of a document's tokens add up to the document's size, even if normalization
  drops or rewrites some; bytes dropped at either end count for the first or
  last token. Words are separated by whitespace, as in Python's `bytes.split`;
  a word counts for the token that has its first byte.

  Documents without tokens (empty, or whitespace only) are dropped.

  Args:
    dataset: examples with `text`.
    output_features: the task's features.

  Returns:
    A dataset of `targets`, `token_bytes` and `token_words`, all int32 [length].

  Raises:
    ValueError: not a SentencePiece vocabulary, so there are no offsets.
  """
  vocabulary = output_features['targets'].vocabulary
  if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
    raise ValueError(
      f'held-out loss needs the bytes that each token covers, and {vocabulary}'
      ' does not provide them: use a SentencePiece vocabulary'
    )
  tokenizer = vocabulary.tf_tokenizer

  def measure(example):
    text = example['text']
    tokens, starts, _ = tokenizer.tokenize_with_offsets(text)
    starts = tf.sort(tf.cast(starts, tf.int64))
    length = tf.cast(tf.strings.length(text), tf.int64)
    bounds = tf.concat([[0], starts[1:], [length]], 0)
    words = tf.searchsorted(_word_starts(text), bounds, out_type=tf.int64)
    return {
      'targets': tokens,
      'token_bytes': tf.cast(bounds[1:] - bounds[:-1], tf.int32),
      'token_words': tf.cast(words[1:] - words[:-1], tf.int32),
    }

  return dataset.map(measure, num_parallel_calls=tf.data.AUTOTUNE).filter(
    lambda x: tf.size(x['targets']) > 0
  )


def preceding(
  tokens: tf.Tensor, stop: tf.Tensor, length: int, eos_id: int
) -> tf.Tensor:
  """Returns the last `length` - 1 tokens before `stop`, and EOS.

  Args:
    tokens: int32 [document length].
    stop: index into `tokens`.
    length: maximum number of tokens to return, EOS included.
    eos_id: id of EOS.
  """
  first = tf.maximum(stop - (length - 1), 0)
  return tf.concat([tokens[first:stop], [eos_id]], 0)


def windows(
  dataset: tf.data.Dataset,
  sequence_length: Mapping[str, int],
  output_features: Mapping[str, seqio.Feature],
) -> tf.data.Dataset:
  """Splits documents into windows that cover every token exactly once.

  With T the targets' length, the targets of window i are tokens i T to (i + 1)
  T - 1, without EOS; the last window may be shorter. Its inputs are as many of
  the tokens before them as fit, and EOS; for the first window, EOS only. In a
  task without `inputs`, for decoder-only models, there is no context beyond the
  window.

  Args:
    dataset: `targets`, `token_bytes`, `token_words` of `tokens_with_extents`.
    sequence_length: length in tokens by feature.
    output_features: the task's features: `targets`, optionally `inputs`.

  Returns:
    A dataset of windows, with scalars `text_bytes` and `text_words`: the size
    of the text that the targets cover.

  Raises:
    ValueError: a length is missing or below 1.
  """
  objectives.check_feature_lengths(sequence_length, list(output_features))
  target_length = sequence_length['targets']

  def cut(document):
    tokens = document['targets']

    def window(start):
      stop = start + target_length
      example = {
        'targets': tokens[start:stop],
        'text_bytes': tf.reduce_sum(document['token_bytes'][start:stop]),
        'text_words': tf.reduce_sum(document['token_words'][start:stop]),
      }
      if 'inputs' in output_features:
        example['inputs'] = preceding(
          tokens,
          start,
          sequence_length['inputs'],
          output_features['inputs'].vocabulary.eos_id,
        )
      return example

    size = tf.size(tokens, out_type=tf.int64)
    return tf.data.Dataset.range(0, size, target_length).map(window)

  return dataset.flat_map(cut)


def register_held_out_loss(
  name: str,
  source: seqio.DataSource,
  summary: str,
  feature_lengths: Mapping[str, int] | None = None,
  keys: Iterable[str] = ('inputs', 'targets'),
) -> registration.Entry:
  """Registers a task whose metrics are bits per byte and perplexity per word.

  Args:
    name: name of the task.
    source: a source whose examples have `text`; not read until used.
    summary: short description of the source, for the catalog.
    feature_lengths: default length in tokens by feature; None: FEATURE_LENGTHS.
    keys: features of the task; ('targets',) for a decoder-only model.

  Returns:
    The catalog entry.
  """
  features = evaluation.features(targets_end=False)
  seqio.TaskRegistry.add(
    name,
    source=source,
    preprocessors=[
      tokens_with_extents,
      seqio.CacheDatasetPlaceholder(),
      windows,
    ],
    output_features={key: features[key] for key in keys},
    postprocess_fn=postprocessors.text_extent,
    metric_fns=[metrics.held_out_loss],
  )
  return registration.Entry(
    name,
    summary,
    'held-out loss: bits per byte, perplexity per word',
    {key: (feature_lengths or FEATURE_LENGTHS)[key] for key in keys},
  )
