"""Tasks on your own corpus: any glob of text, JSON Lines or Parquet files.

`fnet_text_<objective>` and `fnet_text_held_out`. A document is a .txt file, a
line of JSON, or a row of a Parquet file.
"""

import os
from collections.abc import Sequence

import gin

from fnet_t5x.tasks import (
  document_files,
  document_source,
  language_modeling,
  registration,
  text_survey,
)

# For SeqIO's caching job, which does not read gin.
VARIABLE = 'FNET_T5X_TEXT_FILES'


@gin.configurable(module='text_files')
def corpus(
  split: str,
  train: str | Sequence[str] | None = None,
  validation: str | Sequence[str] | None = None,
  held_out_share: float | None = None,
) -> tuple[list[str], document_source.Part]:
  """Returns the files of a split, and the part of their documents it uses.

  Args:
    split: 'train' or 'validation'.
    train: a file or glob, or a list of them; None takes the environment
      variable FNET_T5X_TEXT_FILES.
    validation: likewise; None holds out documents of the training files.
    held_out_share: share of the documents to hold out in that case, chosen by a
      hash of their text; None derives it from the amount of text, and splits
      documents that are a large part of the corpus into passages.

  Raises:
    FileNotFoundError: no glob is set, or it matches nothing.
    ValueError: the share is not between 0 and 1.
  """
  if held_out_share is not None and not 0 < held_out_share < 1:
    raise ValueError(
      f'HELD_OUT_SHARE is {held_out_share!r}; it must be between 0 and 1, or '
      'None'
    )
  if validation and split == 'validation':
    files = _files(validation, 'TEXT_VALIDATION_FILES')
  else:
    files = _files(train, 'TEXT_FILES')
  if validation:
    return files, document_source.WHOLE
  share, passage_bytes = held_out_share, None
  if share is None:
    surveyed = text_survey.survey(files, document_files.ReadOptions(), None)
    share, passage_bytes = surveyed.share, surveyed.passage_bytes
  held_out = split == 'validation'
  return files, document_source.Part(share, held_out, passage_bytes)


def _files(pattern: str | Sequence[str] | None, macro: str) -> list[str]:
  pattern = pattern or os.environ.get(VARIABLE)
  remedy = (
    f"set {macro} to a glob such as '/data/*.jsonl.zst' (.txt, .jsonl, .json, "
    '.parquet; JSON also as .gz or .zst)'
  )
  if not pattern:
    raise FileNotFoundError(f'the corpus of fnet_text_* is not set: {remedy}')
  return document_source.files_of_all(pattern, macro, remedy)


SOURCE = document_source.DocumentFileSource(
  files=lambda split: corpus(split)[0],
  splits=('train', 'validation'),
  part=lambda split: corpus(split)[1],
)
_SUMMARY = 'your own files'
ENTRIES = [
  *registration.register('text', _SUMMARY, SOURCE),
  language_modeling.register_held_out_loss(
    'fnet_text_held_out', SOURCE, _SUMMARY
  ),
]
