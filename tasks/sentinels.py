"""Special tokens of objectives, assigned to the vocabulary's sentinels.

The last `extra_ids` ids of a vocabulary are T5's sentinels, counted from the
top; they have no text. Objectives use them for their other special tokens, too
([MASK], [CLS], mode tokens), so any vocabulary with sentinels works. A
vocabulary that has such pieces, as FNet's has, needs none.
"""

from collections.abc import Mapping

import numpy as np
import seqio


def mark_ids(
  vocabulary: seqio.Vocabulary, ids: Mapping[str, int | None], objective: str
) -> dict[str, int]:
  """Assigns an id to every special token; by default the first sentinels.

  Args:
    vocabulary: has the sentinels, or the pieces.
    ids: id by parameter name; None is the default: for `mask_id` the piece
      [MASK], if there is one, and so on; else, for the n-th parameter, the n-th
      sentinel from the top.
    objective: gin name of the objective that has these parameters.

  Returns:
    Id by parameter name.

  Raises:
    ValueError: too few sentinels, an id outside the vocabulary, or two special
      tokens with the same id.
  """
  ids = {
    key: _piece_id(vocabulary, key) if value is None else value
    for key, value in ids.items()
  }
  first = {
    key: vocabulary.vocab_size - 1 - i
    for i, key in enumerate(ids)
    if ids[key] is None
  }
  lowest = min(first.values(), default=vocabulary.vocab_size)
  needed = vocabulary.vocab_size - lowest
  if needed > vocabulary.extra_ids:
    raise ValueError(
      f'{objective} needs {needed} sentinels for {", ".join(first)}, the'
      f' vocabulary has {vocabulary.extra_ids}: raise its extra_ids, or set'
      f' {objective}.{list(first)[-1]}'
    )
  return check_marks(vocabulary, {**ids, **first}, objective)


def _piece_id(vocabulary: seqio.Vocabulary, key: str) -> int | None:
  """Returns the id of the special token's own piece, such as [MASK]."""
  if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
    return None
  piece = f'[{key.removesuffix("_id").upper()}]'
  found = vocabulary.tokenizer.piece_to_id(piece)
  return None if found == vocabulary.tokenizer.unk_id() else found


def check_marks(
  vocabulary: seqio.Vocabulary, ids: Mapping[str, int], objective: str
) -> dict[str, int]:
  """Returns `ids`, checked to be distinct and within the vocabulary.

  Args:
    vocabulary: vocabulary of the ids.
    ids: id by parameter name.
    objective: gin name of the objective that has these parameters.

  Raises:
    ValueError: names the parameter and the valid range.
  """
  for key, value in ids.items():
    if not 0 < value < vocabulary.vocab_size:
      raise ValueError(
        f'{objective}.{key} is {value}; it must be an id of the vocabulary,'
        f' between 1 and {vocabulary.vocab_size - 1}'
      )
  if len(set(ids.values())) < len(ids):
    raise ValueError(
      f'{objective}: two special tokens have the same id, {dict(ids)}: set'
      ' different ones'
    )
  return dict(ids)


def text_ids(
  vocabulary: seqio.Vocabulary, marks: Mapping[str, int]
) -> np.ndarray:
  """Returns the ids that have text: all but special tokens and sentinels.

  Args:
    vocabulary: vocabulary of the ids.
    marks: special tokens besides padding, EOS, BOS and unknown.

  Returns:
    int32 [ids], ascending.
  """
  special = {
    vocabulary.pad_id,
    vocabulary.eos_id,
    vocabulary.unk_id,
    vocabulary.bos_id,
    *marks.values(),
  }
  first_sentinel = vocabulary.vocab_size - vocabulary.extra_ids
  return np.array(
    [i for i in range(first_sentinel) if i not in special], np.int32
  )
