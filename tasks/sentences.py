"""Sentence boundaries in sequences of tokens."""

import numpy as np
import seqio
import tensorflow as tf
from absl import logging

# Latin, full-width, Devanagari, Arabic and Urdu.
_LAST_CHARACTERS = ('.', '!', '?', '。', '！', '？', '।', '؟', '۔')  # noqa: RUF001


def _texts(vocabulary: seqio.Vocabulary) -> list[str]:
  """Returns the text of each id, without sentinels."""
  size = vocabulary.vocab_size - vocabulary.extra_ids
  if isinstance(vocabulary, seqio.SentencePieceVocabulary):
    return vocabulary.tokenizer.id_to_piece(list(range(size)))
  return [str(vocabulary.decode([i])) for i in range(size)]


def sentence_end_table(vocabulary: seqio.Vocabulary) -> np.ndarray:
  """Returns which pieces end a sentence: those ending in '.', '!' or '?'.

  Args:
    vocabulary: SentencePiece, or one that decodes single ids to text. If none
      of its pieces ends a sentence, each text is one sentence, and a warning is
      logged.

  Returns:
    bool [vocab_size].
  """
  texts = [
    text.rstrip().endswith(_LAST_CHARACTERS) for text in _texts(vocabulary)
  ]
  table = np.pad(np.array(texts), (0, vocabulary.extra_ids))
  if not table.any():
    logging.warning(
      'no piece of the vocabulary ends in one of %s: each text is one sentence',
      ' '.join(_LAST_CHARACTERS),
    )
  return table


def sentence_ends(tokens: tf.Tensor, table: np.ndarray) -> tf.Tensor:
  """Marks the last token of each sentence; '...' or '?!' end only one.

  Args:
    tokens: int32 [length].
    table: bool [vocab_size], from `sentence_end_table`.

  Returns:
    bool [length]. The last token is marked only if it ends a sentence.
  """
  ends = tf.gather(tf.constant(table), tokens)
  goes_on = tf.concat([ends[1:], tf.zeros_like(ends[:1])], 0)
  return ends & ~goes_on


def permute_sentences(
  tokens: tf.Tensor, ends: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
  """Permutes the sentences, uniformly at random.

  Args:
    tokens: int [length].
    ends: bool [length], true on the last token of each sentence. The tokens
      after the last sentence end form one more sentence.
    seed: int [2].

  Returns:
    int [length], the permuted tokens.
  """
  sentence = tf.cumsum(tf.cast(ends, tf.int32), exclusive=True)
  # One unused rank if the text ends in a sentence end.
  count = tf.reduce_sum(tf.cast(ends, tf.int32)) + 1
  rank = tf.argsort(tf.random.stateless_uniform([count], seed=seed))
  return tf.gather(tokens, tf.argsort(tf.gather(rank, sentence), stable=True))
