"""Postprocessors: conversion of decoded text to inputs of metric functions.

SeqIO calls each with the decoded text of an output (`is_target` false), and
with that of the target and the whole example.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fnet_t5x.tasks import label_metrics

# Words that do not distinguish referents (T5's list).
_DETERMINERS = (
  *('a', 'an', 'the', 'this', 'that', 'these', 'those', 'which', 'whose'),
  *('each', 'every', 'few', 'many', 'much', 'some'),
  *('my', 'your', 'his', 'her', 'our', 'their'),
)
_UNKNOWN_ID = 2


def label_id(text: str, labels: Sequence[str], **unused_kwargs) -> int:
  """Returns the label's index in `labels`, or `label_metrics.INVALID`."""
  return labels.index(text) if text in labels else label_metrics.INVALID


def number(text: str, **unused_kwargs) -> float:
  """Parses a finite number; returns -1 for anything else, as T5 does."""
  try:
    value = float(text)
  except ValueError:
    return -1.0
  return value if abs(value) < float('inf') else -1.0


def multirc_label(
  text: str,
  example: Mapping[str, Any] | None = None,
  is_target: bool = False,
) -> int | dict[str, Any]:
  """Returns the label; for a target, also the question as `group`."""
  value = label_id(text, ('False', 'True'))
  if not is_target:
    return value
  question = (int(example['idx/paragraph']), int(example['idx/question']))
  return {'value': value, 'group': question}


def _strings(values) -> list[str]:
  return [value.decode() for value in values]


def all_answers(
  text: str,
  example: Mapping[str, Any] | None = None,
  is_target: bool = False,
) -> str | list[str]:
  """Returns the output; for a target, all of the example's `answers`."""
  return _strings(example['answers']) if is_target else text


def record_answers(
  text: str,
  example: Mapping[str, Any] | None = None,
  is_target: bool = False,
) -> str | dict[str, Any]:
  """Returns the output; for a target, all `answers` and the query."""
  if not is_target:
    return text
  query = (int(example['idx/passage']), int(example['idx/query']))
  return {'value': _strings(example['answers']), 'group': query}


def names_referent(
  text: str,
  example: Mapping[str, Any] | None = None,
  is_target: bool = False,
) -> int:
  """Returns whether an output refers to the example's candidate.

  It does if the words of one are a subset of the other's, ignoring determiners
  and case ('fuzzy bunny' and 'the bunny'), except that a possessive only
  matches a possessive ('Bob' is not "Bob's hat").

  Source: T5's treatment of WSC (Raffel et al. 2020, appendix D.16, and code).

  Args:
    text: the output.
    example: `targets_pretokenized` is the candidate; `label` is whether the
      pronoun refers to it.
    is_target: whether to return `label` instead.
  """
  if is_target:
    return int(example['label'])
  output, candidate = (
    s.strip().lower() for s in (text, example['targets_pretokenized'].decode())
  )
  if ("'" in output) != ("'" in candidate):
    return 0
  output, candidate = (
    set(s.split()).difference(_DETERMINERS) for s in (output, candidate)
  )
  return int(bool(output) and (output <= candidate or candidate <= output))


def first_word(text: str) -> str:
  """Returns the first word, without trailing punctuation."""
  words = text.split()
  if not words:
    return ''
  return words[0].rstrip('.,;:!?"\'`') or words[0]


def last_word(
  text: str,
  example: Mapping[str, Any] | None = None,
  is_target: bool = False,
) -> str | dict[str, Any]:
  """Returns the first word of an output; for a target, also its token count.

  Returns:
    A word, or {'word': the word, 'tokens': the number of its tokens}.
  """
  if not is_target:
    return first_word(text)
  return {'word': first_word(text), 'tokens': len(example['targets'])}


def text_extent(
  text: str,
  example: Mapping[str, Any] | None = None,
  is_target: bool = False,
) -> str | dict[str, int]:
  """Returns the output; for a target, the size of the text that it covers.

  Returns:
    Text, or {'tokens', 'unknown_tokens', 'bytes', 'words'}: numbers of tokens,
    of <unk> among them, and of bytes and words of the original text
    (`language_modeling`).
  """
  if not is_target:
    return text
  return {
    'tokens': len(example['targets']),
    'unknown_tokens': int((example['targets'] == _UNKNOWN_ID).sum()),
    'bytes': int(example['text_bytes']),
    'words': int(example['text_words']),
  }
