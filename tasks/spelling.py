"""Fit of a vocabulary to a text: characters lost, and bytes per token."""

import collections
import dataclasses
import os
from collections.abc import Sequence

import seqio

# Share of unknown characters above which a vocabulary is unsuitable.
_MAX_UNKNOWN = 0.001
_EXAMPLES = 5
# Whitespace that a vocabulary may lose, and its name.
_LAYOUT = {'\n': 'line breaks', '\t': 'tabs', '  ': 'runs of spaces'}
_REMEDY = 'train one on it: --gin_file=gin/vocabularies/own.gin'


@dataclasses.dataclass(frozen=True)
class Spelling:
  """How well a vocabulary encodes a sample of text.

  Attributes:
    vocabulary: file name or class name of the vocabulary.
    pieces: number of pieces, without sentinels.
    bytes_per_token: UTF-8 bytes of the sample per token; 0 if it is empty.
    unknown_characters: share of the sample's characters without a piece, in
      [0, 1].
    unknown_tokens: share of unknown tokens, in [0, 1].
    unknown_examples: the most frequent unknown characters.
    lost: those of 'line breaks', 'tabs' and 'runs of spaces' that encoding
      and decoding loses.
    exact: whether decoding restores the sample exactly.
  """

  vocabulary: str
  pieces: int
  bytes_per_token: float
  unknown_characters: float
  unknown_tokens: float
  unknown_examples: tuple[str, ...]
  lost: tuple[str, ...]
  exact: bool

  def summary(self) -> str:
    """Returns one line on the vocabulary and how it encodes the sample."""
    if self.exact:
      back = 'lossless'
    elif self.lost:
      back = f'loses {_enumerated(self.lost)}'
    else:
      back = 'not lossless'
    return (
      f'{self.vocabulary}: {self.pieces:,} pieces, '
      f'{self.bytes_per_token:.2f} bytes per token, '
      f'{_percent(self.unknown_characters)} of the characters unknown; {back}'
    )


def spelling(vocabulary: seqio.Vocabulary, sample: Sequence[bytes]) -> Spelling:
  """Measures how well a vocabulary encodes a sample of text.

  Args:
    vocabulary: any SeqIO vocabulary.
    sample: texts, UTF-8.
  """
  unknown_id = vocabulary.unk_id
  characters = collections.Counter()
  tokens = unknown_tokens = 0
  lost = set()
  exact = True
  for piece in sample:
    text = piece.decode()
    characters.update(text)
    ids = vocabulary.encode(text)
    tokens += len(ids)
    unknown_tokens += list(ids).count(unknown_id)
    back = vocabulary.decode(ids)
    if back != text:
      exact = False
      lost.update(s for s in _LAYOUT if back.count(s) < text.count(s))
  # Character by character: in a text, several may share one unknown token.
  unknown = {
    character: count
    for character, count in characters.items()
    if unknown_id in vocabulary.encode(character)
  }
  by_count = sorted(unknown, key=lambda c: (-unknown[c], c))
  return Spelling(
    vocabulary=_name(vocabulary),
    pieces=vocabulary.vocab_size - vocabulary.extra_ids,
    bytes_per_token=sum(map(len, sample)) / tokens if tokens else 0.0,
    unknown_characters=sum(unknown.values()) / max(1, characters.total()),
    unknown_tokens=unknown_tokens / max(1, tokens),
    unknown_examples=tuple(by_count[:_EXAMPLES]),
    lost=tuple(name for s, name in _LAYOUT.items() if s in lost),
    exact=exact,
  )


def remedies(found: Spelling) -> list[str]:
  """Returns warnings to print before training on the text, one per line."""
  lines = []
  if found.unknown_characters > _MAX_UNKNOWN:
    examples = ' '.join(map(repr, found.unknown_examples))
    lines.append(
      f'{_percent(found.unknown_characters)} of the characters are unknown to '
      f'this vocabulary (such as {examples}); {_REMEDY}'
    )
  if found.lost:
    lines.append(
      f'this vocabulary turns {_enumerated(found.lost)} into single spaces; if '
      f'they matter, {_REMEDY}'
    )
  return lines


def _name(vocabulary: seqio.Vocabulary) -> str:
  if isinstance(vocabulary, seqio.SentencePieceVocabulary):
    return os.fspath(vocabulary.sentencepiece_model_file)
  return type(vocabulary).__name__


def _percent(share: float) -> str:
  return f'{round(100 * share, 2):g} %'


def _enumerated(names: Sequence[str]) -> str:
  *first, last = names
  return f'{", ".join(first)} and {last}' if first else last
