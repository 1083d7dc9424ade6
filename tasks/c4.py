"""Tasks on C4 (Raffel et al. 2020, arXiv 1910.10683).

`fnet_c4_<objective>` and `fnet_c4_held_out` read TFDS's `c4/en` (for another
version: `tfds_options.versions = {'c4/en': '3.0.1'}`); `fnet_c4_json_*` read
AllenAI's JSON Lines files.
"""

import os
from collections.abc import Mapping

import gin

from fnet_t5x.tasks import (
  document_source,
  language_modeling,
  registration,
  tfds_source,
)

TFDS_NAME = 'c4/en:3.1.0'
# For SeqIO's caching job, which does not read gin.
VARIABLE = 'FNET_T5X_C4_DIR'
# AllenAI's layout.
_PATTERNS = {
  'train': 'c4-train.*.json.gz',
  'validation': 'c4-validation.*.json.gz',
}


@gin.configurable(module='c4')
def json_files(
  split: str,
  data_dir: str | None = None,
  patterns: Mapping[str, str] | None = None,
) -> list[str]:
  """Returns the JSON Lines files of a split.

  Args:
    split: 'train' or 'validation'.
    data_dir: folder of the files (AllenAI's `en`), local or gs://; None takes
      the environment variable FNET_T5X_C4_DIR.
    patterns: glob within that folder, by split; overrides AllenAI's names.

  Raises:
    FileNotFoundError: the folder is not set, or has no matching file.
  """
  data_dir = data_dir or os.environ.get(VARIABLE)
  if not data_dir:
    raise FileNotFoundError(
      'the folder of fnet_c4_json_* is not set: set C4_DIR to the folder with '
      f'{_PATTERNS["train"]}'
    )
  pattern = {**_PATTERNS, **(patterns or {})}[split]
  return document_source.matching_files(
    os.path.join(data_dir, pattern),
    f'C4, split {split!r}',
    'set C4_DIR to the folder with these files, or C4_FILES to their names',
  )


TFDS_SOURCE = tfds_source.TfdsSource(TFDS_NAME, ('train', 'validation'))
JSON_SOURCE = document_source.DocumentFileSource(
  json_files, splits=('train', 'validation')
)
_TFDS_SUMMARY = f'TFDS {TFDS_NAME}'
_JSON_SUMMARY = 'C4 as JSON Lines'
ENTRIES = [
  *registration.register('c4', _TFDS_SUMMARY, TFDS_SOURCE),
  *registration.register('c4_json', _JSON_SUMMARY, JSON_SOURCE),
  language_modeling.register_held_out_loss(
    'fnet_c4_held_out', TFDS_SOURCE, _TFDS_SUMMARY
  ),
  language_modeling.register_held_out_loss(
    'fnet_c4_json_held_out', JSON_SOURCE, _JSON_SUMMARY
  ),
]
