"""Sentence ends, and permutations of sentences."""

import collections
import io
import itertools

import numpy as np
import sentencepiece
import seqio
import tensorflow as tf

from fnet_t5x.tasks import sentences, vocabularies

_BYTES = seqio.ByteVocabulary(extra_ids=5)


def _ends(text: str) -> list[int]:
  tokens = tf.constant(_BYTES.encode(text), tf.int32)
  table = sentences.sentence_end_table(_BYTES)
  return np.flatnonzero(sentences.sentence_ends(tokens, table)).tolist()


def test_bytes_that_end_sentences():
  table = sentences.sentence_end_table(_BYTES)
  assert table.shape == (259 + 5,)
  assert np.flatnonzero(table).tolist() == sorted(ord(c) + 3 for c in '.!?')


def test_pieces_that_end_sentences(tmp_path):
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(['Is it so? It is. Oh! It is, it is so.'] * 9),
    model_writer=model,
    vocab_size=30,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  path = tmp_path / 'pieces.model'
  path.write_bytes(model.getvalue())
  vocabulary = vocabularies.from_file(str(path), extra_ids=10)
  table = sentences.sentence_end_table(vocabulary)
  assert table.shape == (vocabulary.vocab_size,)
  pieces = [
    vocabulary.tokenizer.id_to_piece(i) for i in range(vocabulary.vocab_size)
  ]
  expected = {p for p in pieces if p[-1] in '.!?'}
  assert {pieces[i] for i in np.flatnonzero(table)} == expected
  assert {p[-1] for p in expected} == set('.!?')


def test_a_run_of_full_stops_ends_one_sentence():
  assert _ends('A. B?! C... d') == [1, 5, 10]
  assert _ends('.') == [0]
  assert _ends('') == []


def test_all_orders_are_equally_likely():
  text = 'ab.c!def? g'
  tokens = tf.constant(_BYTES.encode(text), tf.int32)
  ends = sentences.sentence_ends(tokens, sentences.sentence_end_table(_BYTES))
  draws = 4800
  seen = collections.Counter(
    _BYTES.decode(order.tolist())
    for order in tf.data.Dataset.range(draws)
    .map(
      lambda i: sentences.permute_sentences(tokens, ends, tf.stack([i, i + 7]))
    )
    .as_numpy_iterator()
  )
  orders = {
    ''.join(order)
    for order in itertools.permutations(['ab.', 'c!', 'def?', ' g'])
  }
  assert set(seen) == orders
  expected = draws / 24
  assert max(abs(n - expected) for n in seen.values()) < 5 * expected**0.5


def test_text_without_sentences_is_unchanged():
  for text in ('', 'a', 'abc', 'abc.'):
    tokens = tf.constant(_BYTES.encode(text), tf.int32)
    table = sentences.sentence_end_table(_BYTES)
    ends = sentences.sentence_ends(tokens, table)
    permuted = sentences.permute_sentences(tokens, ends, tf.constant([1, 2]))
    assert permuted.numpy().tolist() == _BYTES.encode(text)
