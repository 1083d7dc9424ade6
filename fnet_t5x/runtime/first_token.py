"""Which tokens may begin the text after a prompt.

SentencePiece marks a word's first piece: `▁cit izens`. A model that continues
texts learned from texts cut anywhere, inside words too; a prompt that people
type ends with a whole word. So the first piece must not go on with that word.
"""

import unicodedata

import numpy as np
import seqio
from jaxtyping import Bool

_SPACE = '▁'
# Scripts that write no space between words, by the names of their letters.
_UNSPACED_SCRIPTS = (
  'CJK',
  'HIRAGANA',
  'KATAKANA',
  'THAI',
  'LAO',
  'KHMER',
  'MYANMAR',
  'TIBETAN',
)
# What the next word may follow without a space: `(a`, `-a`, `"a`, `'a`, `/a`.
_OPENING_CATEGORIES = ('Ps', 'Pi', 'Pf', 'Pd', 'Pc')
_OPENING = frozenset('"\'/\\@#$&*~`=+<|^')


class FirstTokens:
  """A vocabulary's tokens, by how a text may begin with them."""

  def __init__(self, vocabulary: seqio.Vocabulary):
    """Looks at each piece of a SentencePiece vocabulary, and at no other's."""
    size = vocabulary.vocab_size
    self._vocabulary = vocabulary
    self._begins_character = np.ones(size, bool)
    self._continues_word = np.zeros(size, bool)
    self._marks_words = False
    if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
      return
    tokenizer = vocabulary.tokenizer
    for token in range(size):
      piece = tokenizer.IdToPiece(token)
      if tokenizer.IsControl(token) or tokenizer.IsUnknown(token):
        continue
      if tokenizer.IsByte(token):
        byte = int(piece[1:-1], 16)
        self._begins_character[token] = byte < 0x80 or 0xC2 <= byte <= 0xF4
        piece = chr(byte) if byte < 0x80 else ''
      self._marks_words |= piece.startswith(_SPACE)
      self._continues_word[token] = _is_of_spaced_word(piece[:1])

  def allowed(self, prompt: str) -> Bool[np.ndarray, ' vocab']:
    """Returns whether the text after a prompt may begin with each token.

    Never with a byte from inside a character. With a letter or digit without
    a space before it only where the prompt ends so that a word may follow
    directly: with an opening bracket, a quote, a hyphen, in a script without
    spaces, or with a blank or a line's end that the vocabulary keeps. Other
    vocabularies than SentencePiece's allow all.
    """
    if not self._marks_words or self._word_may_follow(prompt):
      return self._begins_character
    return self._begins_character & ~self._continues_word

  def _word_may_follow(self, prompt: str) -> bool:
    text = prompt.rstrip()
    if text != prompt:
      # A vocabulary that drops the space at the end puts it before the word.
      encode = self._vocabulary.encode
      return list(encode(prompt)) != list(encode(text))
    last = text[-1:]
    return (
      last in _OPENING
      or unicodedata.category(last) in _OPENING_CATEGORIES
      or _is_unspaced(last)
    )


def _is_of_spaced_word(character: str) -> bool:
  """Whether it is a letter, mark or digit, and spaces part its words."""
  if not character or unicodedata.category(character)[0] not in 'LMN':
    return False
  return not _is_unspaced(character)


def _is_unspaced(character: str) -> bool:
  return unicodedata.name(character, '').startswith(_UNSPACED_SCRIPTS)
