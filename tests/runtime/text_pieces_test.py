"""Pieces of a growing text: together they are what all its tokens decode to."""

import sentencepiece_vocabularies
import seqio

from fnet_t5x.runtime.text_pieces import TextPieces


def pieces_of(decode, tokens) -> list[str]:
  text = TextPieces(decode)
  return [text.add(token) for token in tokens] + [text.finish()]


def decode_bytes(tokens):
  """As byte pieces decode: one U+FFFD for each byte of no whole character."""
  text = bytes(tokens).decode('utf-8', 'surrogateescape')
  return ''.join('\ufffd' if '\ud800' <= c <= '\udfff' else c for c in text)


def test_a_character_waits_for_its_last_byte():
  tokens = 'a€🙂b'.encode()
  pieces = pieces_of(decode_bytes, tokens)
  assert ''.join(pieces) == 'a€🙂b'
  assert [piece for piece in pieces if piece] == ['a', '€', '🙂', 'b']


def test_bytes_of_no_character_are_shown_at_last():
  """In the middle once it is certain; at the end when there is no more."""
  euro = '€'.encode()
  assert pieces_of(decode_bytes, b'a' + euro[:2] + b'b' + euro[:1]) == [
    'a',
    '',
    '',
    '\ufffd\ufffdb',
    '',
    '\ufffd',
  ]


def test_nothing_is_lost_where_a_token_changes_what_is_shown():
  def decode(tokens):
    return ''.join('ab c'[token] for token in tokens).replace('a ', 'x ')

  assert ''.join(pieces_of(decode, [1, 0, 3, 2, 1, 0, 3])) == 'bac bac'
  # `a` became `x`: what follows is held, and shown at the end.
  assert pieces_of(decode, [1, 0, 2, 3]) == ['b', 'a', '', '', 'x c']


def test_pieces_of_a_sentencepiece_vocabulary(tmp_path):
  """Words, bytes and lines."""
  vocabulary = sentencepiece_vocabularies.train(tmp_path)
  text = 'my fellow\ncitizens € 🙂 and friends'
  tokens = vocabulary.encode(text)
  pieces = pieces_of(vocabulary.decode, tokens)
  assert ''.join(pieces) == vocabulary.decode(tokens) == text
  assert not any('\ufffd' in piece for piece in pieces)
  assert len([piece for piece in pieces if piece]) > 5


def test_no_token_at_all():
  assert pieces_of(seqio.ByteVocabulary().decode, []) == ['']
