"""Reports on a vocabulary match what it does to a text."""

import pytest
import seqio

from fnet_t5x.tasks import spelling


def test_counts_are_those_of_the_text(small_vocabulary):
  # Four characters are unknown; two adjacent ones are a single token.
  texts = ['state ☃☃ union peace war', 'house gain ß treasury ☃ m']
  assert sum(map(len, texts)) == 49
  found = spelling.spelling(small_vocabulary, [t.encode() for t in texts])
  assert found.pieces == 200
  assert found.vocabulary.endswith('small.model')
  assert found.unknown_characters == pytest.approx(4 / 49)
  assert found.unknown_examples == ('☃', 'ß')
  ids = [i for t in texts for i in small_vocabulary.encode(t)]
  assert found.unknown_tokens == pytest.approx(3 / len(ids))
  assert found.bytes_per_token == pytest.approx((49 + 3 * 2 + 1) / len(ids))
  assert not found.exact
  assert found.lost == ()
  (line,) = spelling.remedies(found)
  assert line.startswith('8.16 % of the characters are unknown')
  assert "(such as '☃' 'ß')" in line
  assert line.endswith('--gin_file=gin/vocabularies/own.gin')


@pytest.mark.parametrize(
  'text, lost',
  [
    ('a\nb', ('line breaks',)),
    ('a\tb', ('tabs',)),
    ('a  b', ('runs of spaces',)),
    ('a\n\tb', ('line breaks', 'tabs')),
    ('a b', ()),
  ],
)
def test_lost_whitespace_is_reported(small_vocabulary, text, lost):
  found = spelling.spelling(small_vocabulary, [b'state union', text.encode()])
  assert found.lost == lost
  assert found.exact == (not lost)
  lines = spelling.remedies(found)
  assert len(lines) == (1 if lost else 0)
  if lost:
    assert ' and '.join(lost) in lines[0]
    assert f'loses {" and ".join(lost)}' in found.summary()


def test_few_unknown_characters_are_not_reported(small_vocabulary):
  common = b'state union ' * 1000
  found = spelling.spelling(small_vocabulary, [common, 'ß'.encode()])
  assert 0 < found.unknown_characters < 0.001
  assert spelling.remedies(found) == []


def test_any_kind_of_vocabulary_works():
  vocabulary = seqio.ByteVocabulary()
  found = spelling.spelling(vocabulary, ['a\n\t  ☃'.encode()])
  assert found.exact
  assert found.vocabulary == 'ByteVocabulary'
  assert found.bytes_per_token == 1.0
  assert found.unknown_characters == 0
  assert spelling.spelling(vocabulary, []).bytes_per_token == 0.0
