"""Bits per byte of targets, compared with the decoded text."""

import io

import numpy as np
import pytest
import sentencepiece
import seqio

from fnet_t5x.runtime import eval as eval_lib

TEXTS = (
  'the quick brown fox jumps over the lazy dog',
  'Größe und Maß: naïve façade, 3 € ≠ 12 — “so”',
  'a b  c',
  'сто один день',
)
SENTINELS = 5


def trained(path, texts, **changes) -> seqio.SentencePieceVocabulary:
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(texts * 5),
    model_writer=model,
    **{
      'vocab_size': 400,
      'hard_vocab_limit': False,
      'model_type': 'unigram',
      'pad_id': 0,
      'eos_id': 1,
      'unk_id': 2,
      'bos_id': -1,
      'character_coverage': 1.0,
      'minloglevel': 2,
      **changes,
    },
  )
  path.write_bytes(model.getvalue())
  return seqio.SentencePieceVocabulary(str(path), extra_ids=SENTINELS)


@pytest.fixture(scope='module')
def vocabulary(tmp_path_factory):
  return trained(tmp_path_factory.mktemp('whole') / 'model', TEXTS)


@pytest.fixture(scope='module')
def with_bytes(tmp_path_factory):
  """Returns a vocabulary of one text's characters, with byte fallback."""
  path = tmp_path_factory.mktemp('bytes') / 'model'
  return trained(path, TEXTS[:1], byte_fallback=True)


def text_size(vocabulary, ids) -> int:
  """Returns the bytes of the decoded text, with the space decoders drop."""
  pieces = vocabulary.tokenizer
  before = pieces.EncodeAsIds('the')
  decoded = pieces.DecodeIds([*before, *ids]).encode()
  return len(decoded) - len(pieces.DecodeIds(before).encode())


def batch_of(rows, length=64):
  """Returns a batch of rows of ids, with loss weights 0 for padding."""
  targets = np.zeros((len(rows), length), np.int32)
  for row, ids in zip(targets, rows, strict=True):
    row[: len(ids)] = ids
  return {
    'decoder_target_tokens': targets,
    'decoder_loss_weights': (targets != 0).astype(np.int32),
  }


def counted(vocabulary, *batches):
  text = eval_lib.TargetText(vocabulary)
  assert list(text.counted('task', iter(batches))) == list(batches)
  return text.metrics('task', {'cross_ent_per_target_token': 1.5})


@pytest.mark.parametrize('kind', ['vocabulary', 'with_bytes'])
def test_bits_are_of_the_decoded_text(request, kind):
  vocabulary = request.getfixturevalue(kind)
  eos = vocabulary.eos_id
  rows = [[*vocabulary.encode(text), eos] for text in TEXTS]
  found = counted(vocabulary, batch_of(rows[:2]), batch_of(rows[2:]))
  size = sum(text_size(vocabulary, row[:-1]) for row in rows)
  # Each text with a space before it; SentencePiece merges two spaces.
  assert size == sum(len(' '.join(t.split()).encode()) + 1 for t in TEXTS)
  nats = np.float64(1.5) * sum(map(len, rows))
  assert found == {
    'bits_per_byte': pytest.approx(nats / np.log(2) / size, rel=1e-12)
  }


def test_sentinels_cost_and_are_no_text(vocabulary):
  text = vocabulary.encode(TEXTS[0])
  top = vocabulary.vocab_size - 1
  row = [top, *text[:5], top - 1, *text[5:], vocabulary.eos_id]
  found = counted(vocabulary, batch_of([row]))['bits_per_byte']
  nats = np.float64(1.5) * len(row)
  expected = nats / np.log(2) / (len(TEXTS[0].encode()) + 1)
  assert found == pytest.approx(expected, rel=1e-12)


def test_only_tokens_with_a_loss_count(vocabulary):
  ids = vocabulary.encode(TEXTS[1])
  batch = batch_of([ids])
  batch['decoder_loss_weights'][0, :7] = 0
  found = counted(vocabulary, batch)['bits_per_byte']
  nats = np.float64(1.5) * len(ids[7:])
  size = text_size(vocabulary, ids) - text_size(vocabulary, ids[:7])
  assert found == pytest.approx(nats / np.log(2) / size, rel=1e-12)


def test_every_piece_has_the_bytes_that_it_decodes_to(vocabulary):
  table = eval_lib.piece_bytes(vocabulary)
  pieces = vocabulary.tokenizer
  assert len(table) == vocabulary.vocab_size
  for piece in range(3, vocabulary.vocab_size - SENTINELS):
    assert table[piece] == text_size(vocabulary, [piece]), pieces.IdToPiece(
      piece
    )
  assert table[[0, 1]].tolist() == [0, 0]
  assert table[2] == 1
  assert table[-SENTINELS:].tolist() == [0] * SENTINELS


def test_bytes_are_their_own(tmp_path):
  vocabulary = seqio.ByteVocabulary()
  ids = vocabulary.encode('Größe')
  found = counted(vocabulary, batch_of([[*ids, vocabulary.eos_id]]))
  expected = 1.5 * 8 / np.log(2) / 7
  assert found['bits_per_byte'] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('case', ['vocabulary', 'weights', 'no text', 'ids'])
def test_what_is_unknown_is_left_out(vocabulary, case):
  batch = batch_of([vocabulary.encode(TEXTS[0])])
  if case == 'vocabulary':
    vocabulary = seqio.PassThroughVocabulary(size=100)
  elif case == 'weights':
    weights = batch['decoder_loss_weights'].astype(np.float32)
    batch['decoder_loss_weights'] = weights / 2
  elif case == 'ids':
    batch['decoder_target_tokens'][0, 0] = vocabulary.vocab_size
  else:
    batch = batch_of([[vocabulary.eos_id]])
  assert counted(vocabulary, batch) == {}


def test_evaluation_that_was_cut_off_is_not_counted(vocabulary):
  text = eval_lib.TargetText(vocabulary)
  batch = batch_of([vocabulary.encode(TEXTS[0])])
  values = {'cross_ent_per_target_token': 1.0}
  batches = text.counted('task', iter([batch, batch]))
  next(batches)
  batches.close()
  assert text.metrics('task', values) == {}
  list(text.counted('task', iter([batch, batch])))
  assert text.metrics('task', values)
