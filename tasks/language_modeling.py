"""Held-out loss of whole documents, per byte and per word of their text.

Each document is cut into windows. The targets of a window are its next tokens,
the inputs what comes before them; so every token is scored exactly once, in as
much context as fits. Bytes and words are those of the original text, whatever
the vocabulary's normalisation does to it.
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
  """Positions, in bytes, of the first byte of each word of a text."""
  codes = tf.io.decode_raw(text, tf.uint8)
  is_space = (codes == 32) | ((codes >= 9) & (codes <= 13))
  after_space = tf.concat([[True], is_space], 0)[:-1]
  return tf.where(~is_space & after_space)[:, 0]


def tokens_with_extents(
  dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]
) -> tf.data.Dataset:
  """Tokenizes `text`; counts the bytes and words that each token stands for.

  A token stands for the text from its first byte to the next token's: so the
  bytes of a document's tokens add up to the document's, also where
  normalisation drops or rewrites some. What it drops at the ends goes to the
  first and last token. A word is what white space separates, as in Python's
  `bytes.split`; it counts for the token that holds its first byte.

  A document without tokens, empty or white space alone, is left out: there is
  nothing in it to predict.

  Args:
    dataset: examples with `text`.
    output_features: the task's features.

  Returns:
    A dataset of `targets`, `token_bytes` and `token_words`, all int32 [length].

  Raises:
    ValueError: the vocabulary is not a SentencePiece one, and has no offsets.
  """
  vocabulary = output_features['targets'].vocabulary
  if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
    raise ValueError(
      f'held-out loss cannot tell which bytes a token of {vocabulary} stands'
      ' for: give the task a SentencePiece vocabulary'
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
  """The `length` - 1 tokens before `stop`, fewer at the start, and EOS.

  Args:
    tokens: int32 [document length].
    stop: a position in them.
    length: most tokens to return, EOS included.
    eos_id: EOS.
  """
  first = tf.maximum(stop - (length - 1), 0)
  return tf.concat([tokens[first:stop], [eos_id]], 0)


def windows(
  dataset: tf.data.Dataset,
  sequence_length: Mapping[str, int],
  output_features: Mapping[str, seqio.Feature],
) -> tf.data.Dataset:
  """Cuts documents into windows that cover every token exactly once.

  Window i has the targets' length T of tokens from i T on, the last one fewer,
  without EOS; its inputs are as many of the tokens before them as fit, and EOS.
  The inputs of the first are EOS alone. A task without `inputs`, for a
  decoder-only model, gives the targets no context beyond the window.

  Args:
    dataset: `targets`, `token_bytes`, `token_words` of `tokens_with_extents`.
    sequence_length: length in tokens by feature.
    output_features: the task's features: targets, and inputs or none.

  Returns:
    A dataset of windows, with scalars `text_bytes` and `text_words`: what the
    targets stand for.

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
    name: the task's.
    source: any whose examples have `text`; nothing is read before its use.
    summary: what the source is, in a few words, for the catalogue.
    feature_lengths: default length in tokens by feature; None: FEATURE_LENGTHS.
    keys: features of the task; ('targets',) for a decoder-only model.

  Returns:
    The catalogue's line.
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
