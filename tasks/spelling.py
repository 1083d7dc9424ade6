"""What a vocabulary makes of a text: what is lost, and how long it becomes."""

import collections
import dataclasses
import os
from collections.abc import Sequence

import seqio

# Share of unknown characters over which a vocabulary is the wrong one.
_MUCH = 0.001
_EXAMPLES = 5
# What may not come back, and what to call it.
_LAYOUT = {'\n': 'line ends', '\t': 'tabs', '  ': 'runs of blanks'}
_REMEDY = 'train one on it: --gin_file=gin/vocabularies/own.gin'


@dataclasses.dataclass(frozen=True)
class Spelling:
  """What a vocabulary makes of a sample of text.

  Attributes:
    vocabulary: its file, or its kind.
    pieces: how many it has, sentinels not among them.
    bytes_per_token: of the sample's UTF-8; 0 for an empty sample.
    unknown_characters: share of the sample's characters that it has no piece
      for, in [0, 1].
    unknown_tokens: share of the tokens that are the unknown one, in [0, 1].
    unknown_examples: the most frequent of those characters.
    lost: what of 'line ends', 'tabs' and 'runs of blanks' the sample has and
      does not get back.
    exact: whether the sample comes back as it was.
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
    """Returns one line: which vocabulary, and how it spells the sample."""
    if self.exact:
      back = 'the text comes back as it was'
    elif self.lost:
      back = f'{_enumerated(self.lost)} do not come back'
    else:
      back = 'the text does not come back exactly'
    return (
      f'{self.vocabulary}: {self.pieces:,} pieces, '
      f'{self.bytes_per_token:.2f} bytes per token, '
      f'{_percent(self.unknown_characters)} of the characters unknown; {back}'
    )


def spelling(vocabulary: seqio.Vocabulary, sample: Sequence[bytes]) -> Spelling:
  """Returns what a vocabulary makes of a sample of text.

  Args:
    vocabulary: SeqIO's, of any kind.
    sample: pieces of text, UTF-8.
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
  # In a text, one unknown token may stand for several characters.
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
  """Returns what a person should know before training on the text.

  Returns:
    A line each; none if all is well.
  """
  lines = []
  if found.unknown_characters > _MUCH:
    examples = ' '.join(map(repr, found.unknown_examples))
    lines.append(
      f'{_percent(found.unknown_characters)} of the characters cannot be '
      f'spelled with this vocabulary (such as {examples}); {_REMEDY}'
    )
  if found.lost:
    lines.append(
      f'{_enumerated(found.lost)} are lost with this vocabulary, and become '
      f'single blanks; if they matter, {_REMEDY}'
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
