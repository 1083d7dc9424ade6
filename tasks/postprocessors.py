"""From a model's text, or an example's, to what the metric functions take.

Seqio calls each with the decoded text of an output (`is_target` false), and of
the target, then with the whole example.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fnet_t5x.tasks import label_metrics

# Words that do not tell one referent from another (T5's list).
_DETERMINERS = (
  *('a', 'an', 'the', 'this', 'that', 'these', 'those', 'which', 'whose'),
  *('each', 'every', 'few', 'many', 'much', 'some'),
  *('my', 'your', 'his', 'her', 'our', 'their'),
)
_UNKNOWN_ID = 2


def label_id(text: str, labels: Sequence[str], **unused_kwargs) -> int:
  """The label's place in `labels`, or `label_metrics.INVALID`."""
  return labels.index(text) if text in labels else label_metrics.INVALID


def number(text: str, **unused_kwargs) -> float:
  """The number that the text is, or -1, as in T5; never NaN or infinite."""
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
  """The label; for a target, beside the question that it answers."""
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
  """The output; for a target, all of the example's `answers`."""
  return _strings(example['answers']) if is_target else text


def record_answers(
  text: str,
  example: Mapping[str, Any] | None = None,
  is_target: bool = False,
) -> str | dict[str, Any]:
  """The output; for a target, all `answers` to the query, and which it is."""
  if not is_target:
    return text
  query = (int(example['idx/passage']), int(example['idx/query']))
  return {'value': _strings(example['answers']), 'group': query}


def names_referent(
  text: str,
  example: Mapping[str, Any] | None = None,
  is_target: bool = False,
) -> int:
  """Whether an output means the candidate that the example asks about.

  It does where all its words are the candidate's, or the other way round,
  determiners and case aside ('fuzzy bunny' and 'the bunny'), but a possessive
  only means a possessive ('Bob' is not "Bob's hat").

  Source: T5's treatment of WSC (Raffel et al. 2020, appendix D.16, and code).

  Args:
    text: the output.
    example: its `targets_pretokenized` is the candidate; `label` says whether
      the pronoun does refer to it.
    is_target: whether to return that label instead.
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
  """The first word, without the punctuation that follows it."""
  words = text.split()
  if not words:
    return ''
  return words[0].rstrip('.,;:!?"\'`') or words[0]


def last_word(
  text: str,
  example: Mapping[str, Any] | None = None,
  is_target: bool = False,
) -> str | dict[str, Any]:
  """The first word of what a model wrote; for a target, the word and its size.

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
  """The output; for a target, how much text it stands for.

  Returns:
    Text, or {'tokens', 'unknown_tokens', 'bytes', 'words'}: numbers of tokens,
    <unk> among them, and of bytes and words of the document
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
