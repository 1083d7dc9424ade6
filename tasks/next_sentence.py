"""Masked language modeling with next-sentence prediction, as in BERT and FNet.

[CLS] A [SEP] B [SEP]: for half of the examples B follows A in the document. For
the other half B is from another document (BERT; Devlin et al. 2019, arXiv
1810.04805, section 3.1), or A and B are swapped (FNet's code, although the
paper says next sentence; google-research, f_net/input_pipeline.py). Labels are
BERT's: 0 if B follows A, 1 if not.
"""

from collections.abc import Mapping
from typing import Literal

import gin
import seqio
import tensorflow as tf

from fnet_t5x.choices import check_choice
from fnet_t5x.tasks import masked_lm, sentences, sentinels

SecondText = Literal['other_document', 'swapped']
_ALIGNED = ('inputs', 'targets', 'loss_weights', 'type_ids')


def features(vocabulary: seqio.Vocabulary) -> dict[str, seqio.Feature]:
  """Returns the output features: masked LM's, and two more.

  `type_ids` are 0 on [CLS] A [SEP] and 1 on B [SEP]; `next_sentence_labels` is
  a single label, of shape [1].
  """
  flag = seqio.Feature(seqio.PassThroughVocabulary(size=2), add_eos=False)
  return {
    **masked_lm.features(vocabulary),
    'type_ids': flag,
    'next_sentence_labels': flag,
  }


def _piece_bounds(
  lengths: tf.Tensor, max_tokens: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Splits documents into pieces of 2 to `max_tokens` tokens.

  Args:
    lengths: int64 [documents], each at least 2.
    max_tokens: at least 3.

  Returns:
    (document, start, length), int64 [pieces] each; starts are offsets from the
    first token of the first document.
  """
  starts = tf.ragged.range(tf.zeros_like(lengths), lengths, max_tokens)
  document = starts.value_rowids()
  start = starts.flat_values
  # A last piece of one token takes a second one from the piece before it.
  start -= tf.cast(tf.gather(lengths, document) - start == 1, start.dtype)
  start += tf.gather(tf.cumsum(lengths, exclusive=True), document)
  end = tf.concat([start[1:], tf.reduce_sum(lengths)[None]], 0)
  return document, start, end - start


def _cuts(
  tokens: tf.Tensor,
  ends_sentence: tf.Tensor,
  start: tf.Tensor,
  length: tf.Tensor,
  fraction: tf.Tensor,
  max_tokens: int,
) -> tf.Tensor:
  """Returns the length of A: the sentence end closest to `fraction` of a piece.

  Args:
    tokens: int32 [tokens], the pieces, concatenated.
    ends_sentence: bool [tokens].
    start: int64 [pieces], first token.
    length: int64 [pieces].
    fraction: float32 [pieces] in [0, 1).
    max_tokens: maximum length of a piece.

  Returns:
    int64 [pieces], tokens in A; both A and B have at least one. A piece without
    a sentence end inside is cut at `fraction`.
  """
  room = tf.cast(length - 1, tf.float32)
  wanted = 1 + tf.minimum(tf.cast(fraction * room, tf.int64), length - 2)
  piece = tf.repeat(tf.range(tf.size(length)), length)
  cut = 1 + tf.range(tf.size(tokens, tf.int64)) - tf.gather(start, piece)
  away = tf.abs(cut - tf.gather(wanted, piece))
  # Sort key: sentence ends by distance, then other tokens by distance; the
  # lowest digit in base `base` is the cut itself.
  cost = away + tf.where(
    ends_sentence, tf.zeros_like(away), tf.cast(max_tokens, tf.int64)
  )
  allowed = cut < tf.gather(length, piece)
  base = max_tokens + 1
  key = tf.where(allowed, cost * base + cut, tf.int64.max)
  return tf.math.segment_min(key, piece) % base


def pair_texts(
  documents: tf.RaggedTensor,
  table,
  max_tokens: int,
  random_next_probability: float,
  seed: tf.Tensor,
  second_text: SecondText = 'other_document',
) -> dict[str, tf.Tensor | tf.RaggedTensor]:
  """Splits the text of some documents into pairs (A, B).

  Documents are split into pieces, and each piece in two. Pieces are matched
  with pieces of other documents, and half of the matched pairs swap their
  second parts; or half of the pieces swap their own two parts. So both labels
  have the same distribution of lengths, and every token is used once.

  Args:
    documents: int32 [documents, (tokens)], each of at least 2 tokens.
    table: bool [vocab_size], true for pieces that end a sentence.
    max_tokens: maximum number of tokens in a pair that is not swapped.
    random_next_probability: share of the matched pairs, or pieces, that swap.
    seed: int [2].
    second_text: what B is if it does not continue A: part of another document,
      or the text before A.

  Returns:
    'a' and 'b', int32 [pairs, (tokens)], and 'label', int32 [pairs, 1]. A
    swapped pair may have a few tokens more than `max_tokens`.
  """
  seeds = tf.random.experimental.stateless_split(tf.cast(seed, tf.int64), 3)
  order = tf.argsort(
    tf.random.stateless_uniform([documents.nrows()], seed=seeds[0])
  )
  documents = tf.gather(documents, order)
  tokens = documents.flat_values
  document, start, length = _piece_bounds(documents.row_lengths(), max_tokens)
  pieces = tf.size(length)
  half = pieces // 2
  single = pieces - 2 * half
  # Partners are half of all pieces apart: in different documents, unless one
  # document has more than half of the pieces.
  partner = tf.concat(
    [tf.range(half, 2 * half), tf.range(half), tf.range(pieces)[2 * half :]], 0
  )

  def for_couples(draws, otherwise):
    return tf.concat([draws, draws, tf.fill([single], otherwise)], 0)

  fraction = for_couples(
    tf.random.stateless_uniform([half], seed=seeds[1]), 0.5
  )
  swaps = for_couples(
    tf.random.stateless_uniform([half], seed=seeds[2])
    < random_next_probability,
    False,
  )
  if second_text == 'swapped':
    fraction = tf.random.stateless_uniform([pieces], seed=seeds[1])
    swaps = (
      tf.random.stateless_uniform([pieces], seed=seeds[2])
      < random_next_probability
    )
  else:
    swaps &= document != tf.gather(document, partner)
  ends = sentences.sentence_ends(tokens, table)
  first = _cuts(tokens, ends, start, length, fraction, max_tokens)
  parts = tf.RaggedTensor.from_row_lengths(
    tokens, tf.reshape(tf.stack([first, length - first], 1), [-1])
  )
  row = tf.range(pieces)
  a, b = 2 * row, 2 * row + 1
  if second_text == 'swapped':
    a, b = tf.where(swaps, b, a), tf.where(swaps, a, b)
  else:
    b = tf.where(swaps, 2 * partner + 1, b)
  return {
    'a': tf.gather(parts, a),
    'b': tf.gather(parts, b),
    'label': tf.cast(swaps, tf.int32)[:, None],
  }


@gin.configurable
def masked_lm_nsp(
  dataset: tf.data.Dataset,
  sequence_length: Mapping[str, int],
  output_features: Mapping[str, seqio.Feature],
  noise_density: float = 0.15,
  mask_token_proportion: float = 0.8,
  random_token_proportion: float = 0.1,
  random_next_probability: float = 0.5,
  second_text: SecondText = 'other_document',
  max_predictions: int | None = None,
  batch_size: int = 128,
  mask_id: int | None = None,
  cls_id: int | None = None,
  sep_id: int | None = None,
) -> tf.data.Dataset:
  """Makes BERT's and FNet's pretraining examples: masked LM and NSP.

  A ends at a sentence end, if the text has one. No token is lost, except at the
  end of a swapped B that is a few tokens too long.

  Args:
    dataset: examples with tokenized `targets`. Documents of fewer than two
      tokens cannot form a pair and are dropped.
    sequence_length: length by feature: equal for the aligned features, 1 for
      `next_sentence_labels`.
    output_features: the task's features (`features`).
    noise_density: share of the text that is predicted.
    mask_token_proportion: share of the predicted tokens that become [MASK].
    random_token_proportion: share that become a random token; the rest is
      unchanged.
    random_next_probability: share of the pairs whose B does not continue A.
    second_text: what B is then: 'other_document' as in BERT, or 'swapped', the
      text before A, as in FNet: sentence order.
    max_predictions: maximum number of predicted tokens of an example, which the
      model takes (MAX_PREDICTIONS); None for no check.
    batch_size: number of documents that are paired with each other. All pairs
      of a document that is alone in its batch are true continuations.
    mask_id: id of [MASK]; by default the first sentinel.
    cls_id: id of [CLS]; by default the second sentinel.
    sep_id: id of [SEP]; by default the third sentinel.

  Raises:
    ValueError: lengths differ or are too short, shares or `second_text` are not
      allowed, examples may have more than `max_predictions`, or the vocabulary
      has too few sentinels.
  """
  check_choice('second_text', second_text, SecondText)
  max_tokens = masked_lm.check_aligned_lengths(sequence_length, _ALIGNED, 6) - 3
  if sequence_length.get('next_sentence_labels') != 1:
    raise ValueError(
      "TASK_FEATURE_LENGTHS gives 'next_sentence_labels'"
      f' {sequence_length.get("next_sentence_labels")}; there is one per pair:'
      ' set it to 1'
    )
  masked_lm.check_proportions(
    'masked_lm_nsp',
    noise_density,
    mask_token_proportion,
    random_token_proportion,
  )
  masked_lm.check_predictions(max_tokens, noise_density, max_predictions)
  vocabulary = output_features['targets'].vocabulary
  marks = sentinels.mark_ids(
    vocabulary,
    {'mask_id': mask_id, 'cls_id': cls_id, 'sep_id': sep_id},
    'masked_lm_nsp',
  )
  random_ids = sentinels.text_ids(vocabulary, marks)
  table = sentences.sentence_end_table(vocabulary)

  @seqio.map_over_dataset(num_seeds=1)
  def pair(documents, seed):
    return pair_texts(
      documents, table, max_tokens, random_next_probability, seed, second_text
    )

  @seqio.map_over_dataset(num_seeds=1)
  def mask(example, seed):
    cls, sep = [marks['cls_id']], [marks['sep_id']]
    a = example['a']
    b = example['b'][: max_tokens - tf.size(a)]
    targets = tf.concat([cls, a, sep, b, sep], 0)
    is_text = tf.concat(
      [
        [False],
        tf.ones_like(a, tf.bool),
        [False],
        tf.ones_like(b, tf.bool),
        [False],
      ],
      0,
    )
    inputs, weights = masked_lm.mask_tokens(
      targets,
      is_text,
      seed,
      noise_density=noise_density,
      mask_token_proportion=mask_token_proportion,
      random_token_proportion=random_token_proportion,
      mask_id=marks['mask_id'],
      random_ids=random_ids,
    )
    type_ids = tf.cast(tf.range(tf.size(targets)) >= tf.size(a) + 2, tf.int32)
    return {
      'inputs': inputs,
      'targets': targets,
      'loss_weights': weights,
      'type_ids': type_ids,
      'next_sentence_labels': example['label'],
    }

  documents = dataset.map(lambda x: x['targets']).filter(
    lambda tokens: tf.size(tokens) > 1
  )
  return mask(pair(documents.ragged_batch(batch_size)).unbatch())
