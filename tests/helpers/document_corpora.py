"""Synthetic corpora in every file format, for tests of sources."""

import gzip
import json
import pathlib
from collections.abc import Sequence

import pyarrow
import pyarrow.parquet
import zstandard

COMPONENTS = ('ArXiv', 'FreeLaw', 'Github')


def text(number: int) -> str:
  """Returns a document: its number, then words, lines and punctuation."""
  words = ' '.join(f'w{number * 7 + i}' for i in range(5 + number % 11))
  return f'd{number} {words}\nsecond line, "quoted" é☃ {number}'


def component(number: int) -> str:
  return COMPONENTS[number % len(COMPONENTS)]


def rows(numbers: Sequence[int]) -> list[dict]:
  """Returns documents in the Pile's schema."""
  return [
    {'text': text(n), 'meta': {'pile_set_name': component(n)}} for n in numbers
  ]


def json_lines(numbers: Sequence[int]) -> bytes:
  lines = (json.dumps(row, ensure_ascii=False) for row in rows(numbers))
  return ''.join(f'{line}\n' for line in lines).encode()


def write(path: pathlib.Path, numbers: Sequence[int]) -> pathlib.Path:
  """Writes documents in the format given by the file's suffix."""
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == '.parquet':
    table = pyarrow.Table.from_pylist(rows(numbers))
    pyarrow.parquet.write_table(table, path, row_group_size=7)
    return path
  content = json_lines(numbers)
  if path.suffix == '.gz':
    content = gzip.compress(content)
  elif path.suffix == '.zst':
    content = zstandard.compress(content)
  elif path.suffix == '.txt':
    (number,) = numbers
    content = text(number).encode()
  path.write_bytes(content)
  return path


def number_of(document: bytes) -> int:
  """Returns the number at the start of a document's text."""
  return int(document.split()[0].removeprefix(b'd'))
