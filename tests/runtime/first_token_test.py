"""Which tokens may begin a text, by the rule put in words here once more."""

import pytest
import sentencepiece_vocabularies
import seqio

from fnet_t5x.runtime.first_token import FirstTokens


@pytest.fixture(scope='module')
def vocabulary(tmp_path_factory):
  return sentencepiece_vocabularies.train(tmp_path_factory.mktemp('pieces'))


def allowed_pieces(vocabulary, prompt) -> set[str]:
  allowed = FirstTokens(vocabulary).allowed(prompt)
  assert allowed.shape == (vocabulary.vocab_size,)
  return {vocabulary.tokenizer.IdToPiece(int(i)) for i in allowed.nonzero()[0]}


def all_pieces(vocabulary) -> set[str]:
  size = vocabulary.vocab_size
  return {vocabulary.tokenizer.IdToPiece(token) for token in range(size)}


@pytest.mark.parametrize(
  'prompt',
  [
    'my fellow',
    'in 1862',
    'the union is strong,',
    'my fellow ( ',
    'a ',
    'a- ',
  ],
)
def test_a_word_begins(vocabulary, prompt):
  allowed = allowed_pieces(vocabulary, prompt)
  for piece in all_pieces(vocabulary):
    if not piece.startswith('<'):
      inside_word = piece[0].isalnum()
      assert (piece in allowed) == (not inside_word), piece
  assert {'▁the', ',', '\n', '</s>', '▁<extra_id_0>'} <= allowed
  # Bytes: letters and digits as above, and only those that begin a character.
  assert '<0x20>' in allowed
  assert '<0x61>' not in allowed
  for byte in range(0x80, 0x100):
    starts = any(
      chr(point).encode()[0] == byte
      for point in range(0x80, 0x110000, 0x40)
      if not 0xD800 <= point < 0xE000
    )
    assert (f'<0x{byte:02X}>' in allowed) == starts


@pytest.mark.parametrize(
  'prompt', ['well-', 'my (', 'he said "', "don'", 'a/', '自由', 'a line\n']
)
def test_a_word_may_follow_directly(vocabulary, prompt):
  allowed = allowed_pieces(vocabulary, prompt)
  left_out = all_pieces(vocabulary) - allowed
  assert left_out
  assert all(piece.startswith('<0x') for piece in left_out)


@pytest.mark.parametrize('end', [' ', '  ', '\n', '- '])
def test_blank_that_the_vocabulary_keeps(vocabulary, tmp_path, end):
  """`the ` and `the`: the space is in the prompt, or in the next piece."""
  keeping = sentencepiece_vocabularies.train(tmp_path, keeps_blanks=True)
  assert keeping.decode(keeping.encode('my' + end)) == 'my' + end
  for kept, is_kept in ((keeping, True), (vocabulary, end == '\n')):
    inside = {
      piece for piece in all_pieces(kept) if piece[0].isalnum()
    } & allowed_pieces(kept, 'my' + end)
    assert bool(inside) == is_kept
    assert '▁the' in allowed_pieces(kept, 'my' + end)


def test_other_vocabularies_allow_all():
  assert FirstTokens(seqio.ByteVocabulary()).allowed('abc').all()
