"""Ids with a meaning of their own, on the vocabulary's sentinels.

A vocabulary's `extra_ids` last ids stand for no text. They are T5's sentinels,
counted from the top; objectives put their other marks ([MASK], [CLS], mode
tokens) on them too, so that any vocabulary with sentinels serves.
"""

from collections.abc import Mapping

import numpy as np
import seqio


def mark_ids(
  vocabulary: seqio.Vocabulary, ids: Mapping[str, int | None], objective: str
) -> dict[str, int]:
  """Gives every mark its id; those without one get the first sentinels.

  Args:
    vocabulary: has the sentinels.
    ids: id by the mark's parameter, None for the default: the n-th of them
      stands on the n-th sentinel from the top.
    objective: whose parameters they are, as gin names it.

  Returns:
    Id by parameter.

  Raises:
    ValueError: too few sentinels, an id outside the vocabulary, or two marks
      with one id.
  """
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


def check_marks(
  vocabulary: seqio.Vocabulary, ids: Mapping[str, int], objective: str
) -> dict[str, int]:
  """Returns `ids`; refuses ids outside of the vocabulary, and equal ones.

  Args:
    vocabulary: what the ids are of.
    ids: id by the mark's parameter.
    objective: whose parameters they are, as gin names it.

  Raises:
    ValueError: says which, and what to set.
  """
  for key, value in ids.items():
    if not 0 < value < vocabulary.vocab_size:
      raise ValueError(
        f'{objective}.{key} is {value}; it must be an id of the vocabulary,'
        f' between 1 and {vocabulary.vocab_size - 1}'
      )
  if len(set(ids.values())) < len(ids):
    raise ValueError(
      f'{objective} has two marks with one id, {dict(ids)}: set them apart'
    )
  return dict(ids)


def text_ids(
  vocabulary: seqio.Vocabulary, marks: Mapping[str, int]
) -> np.ndarray:
  """The ids that stand for text: no sentinel, mark, padding, EOS, unknown.

  Args:
    vocabulary: what the ids are of.
    marks: ids that stand for something else.

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
