"""Where sentences end in a sequence of tokens."""

import numpy as np
import seqio
import tensorflow as tf
from absl import logging

# Latin, full-width, Devanagari, Arabic and Urdu.
_LAST_CHARACTERS = ('.', '!', '?', '。', '！', '？', '।', '؟', '۔')  # noqa: RUF001


def _texts(vocabulary: seqio.Vocabulary) -> list[str]:
  """What each id stands for, sentinels left out."""
  size = vocabulary.vocab_size - vocabulary.extra_ids
  if isinstance(vocabulary, seqio.SentencePieceVocabulary):
    return vocabulary.tokenizer.id_to_piece(list(range(size)))
  return [str(vocabulary.decode([i])) for i in range(size)]


def sentence_end_table(vocabulary: seqio.Vocabulary) -> np.ndarray:
  """Which pieces end a sentence: those that end in a full stop, `!` or `?`.

  Args:
    vocabulary: SentencePiece, or one that decodes single ids to text. Where
      none of its pieces ends a sentence, a text is one; the log says so.

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
  """Marks the last token of each sentence; '...' and '?!' end one, not three.

  Args:
    tokens: int32 [length].
    table: bool [vocab_size], from `sentence_end_table`.

  Returns:
    bool [length]. The end of the text is marked only where a sentence ends.
  """
  ends = tf.gather(tf.constant(table), tokens)
  goes_on = tf.concat([ends[1:], tf.zeros_like(ends[:1])], 0)
  return ends & ~goes_on


def permute_sentences(
  tokens: tf.Tensor, ends: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
  """Puts the sentences in a random order, all orders equally likely.

  Args:
    tokens: int [length].
    ends: bool [length], true on the last token of each sentence. What follows
      the last one counts as a sentence.
    seed: int [2].

  Returns:
    int [length], the same tokens.
  """
  sentence = tf.cumsum(tf.cast(ends, tf.int32), exclusive=True)
  # One rank more than sentences where the text ends with one: no harm.
  count = tf.reduce_sum(tf.cast(ends, tf.int32)) + 1
  rank = tf.argsort(tf.random.stateless_uniform([count], seed=seed))
  return tf.gather(tokens, tf.argsort(tf.gather(rank, sentence), stable=True))
