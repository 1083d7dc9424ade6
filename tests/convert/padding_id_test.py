"""Exchange of ids 0 and 3, in arrays and in a real SentencePiece model."""

import numpy as np
import published_fnets
import pytest
import sentencepiece
import tensorflow as tf

from fnet_t5x.convert import padding_id
from fnet_t5x.tasks import sentinels, vocabularies

# The last has characters without a piece.
ENCODED = [*published_fnets.TEXTS, 'free and strong citizens', 'the ☃ state é']
EXCHANGED = {0: 3, 3: 0}


@pytest.fixture(scope='module')
def published():
  return published_fnets.train_pieces()


@pytest.fixture(scope='module')
def ours(published, tmp_path_factory):
  path = tmp_path_factory.mktemp('ours') / 'vocabulary.model'
  path.write_bytes(padding_id.exchange_pieces(published, 'spiece.model'))
  return path


def test_rows_0_and_3():
  rows = np.arange(12.0).reshape(6, 2)
  want = rows[[3, 1, 2, 0, 4, 5]]
  np.testing.assert_array_equal(padding_id.exchange(rows), want)
  np.testing.assert_array_equal(padding_id.exchange(want), rows)
  np.testing.assert_array_equal(rows[0], [0, 1])


def test_encodings_are_equal_but_for_0_and_3(published, ours):
  before = sentencepiece.SentencePieceProcessor(model_proto=published)
  vocabulary = vocabularies.from_file(str(ours), extra_ids=0)
  assert before.unk_id() == 0 and before.pad_id() == 3
  assert (vocabulary.pad_id, vocabulary.eos_id) == (0, 2)
  assert (vocabulary.unk_id, vocabulary.bos_id) == (3, 1)
  unknown = 0
  for text in ENCODED:
    ids = before.encode(text)
    unknown += ids.count(0)
    want = [EXCHANGED.get(i, i) for i in ids]
    assert vocabulary.encode(text) == want
    assert vocabulary.encode_tf(tf.constant(text)).numpy().tolist() == want
    assert vocabulary.tokenizer.decode(want) == before.decode(ids)
  assert unknown > 0


def test_marks_are_the_pieces_not_sentinels(ours):
  vocabulary = vocabularies.from_file(str(ours), extra_ids=0)
  ids = dict.fromkeys(('mask_id', 'cls_id', 'sep_id'))
  marks = sentinels.mark_ids(vocabulary, ids, 'masked_lm')
  assert marks == {'mask_id': 6, 'cls_id': 4, 'sep_id': 5}
  assert sentinels.text_ids(vocabulary, marks).tolist() == list(range(7, 90))
  chosen = sentinels.mark_ids(vocabulary, ids | {'sep_id': 8}, 'masked_lm')
  assert chosen['sep_id'] == 8


def test_exchange_is_its_own_inverse(published, ours):
  back = padding_id.exchange_pieces(ours.read_bytes(), 'x', published=False)
  assert padding_id.exchange_pieces(back, 'x') == ours.read_bytes()
  before, after = (
    sentencepiece.SentencePieceProcessor(model_proto=m)
    for m in (published, back)
  )
  assert before.encode(ENCODED) == after.encode(ENCODED)
  assert (after.unk_id(), after.pad_id()) == (0, 3)
  assert padding_id.piece_count(back) == 90


def test_other_models_are_refused(published, ours, tmp_path):
  for content in (b'', b'no model'):
    with pytest.raises(ValueError, match=r'x\.model is not a SentencePiece'):
      padding_id.exchange_pieces(content, 'x.model')
  with pytest.raises(ValueError, match='x has the ids unknown 3, padding 0'):
    padding_id.exchange_pieces(ours.read_bytes(), 'x')
  with pytest.raises(ValueError, match='x has the ids unknown 0, padding 3'):
    padding_id.exchange_pieces(published, 'x', published=False)
  with pytest.raises(ValueError, match='padding nowhere'):
    padding_id.exchange_pieces(published_fnets.train_pieces(pad_id=-1), 'x')
  path = tmp_path / 'spiece.model'
  path.write_bytes(published)
  with pytest.raises(ValueError, match=r'convert\.fnet.* --vocabulary'):
    vocabularies.from_file(str(path))
