"""Documents in files: JSON Lines (plain, .gz, .zst), Parquet, plain text.

Paths are local or gs://. Errors are one line that names the file and the line
in it.
"""

import codecs
import dataclasses
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import gin
import tensorflow as tf

from fnet_t5x.tasks import decompression, parquet_rows

SUFFIXES = (
  '.txt',
  '.jsonl',
  '.json',
  '.jsonl.gz',
  '.json.gz',
  '.jsonl.zst',
  '.json.zst',
  '.parquet',
)
_CHUNK_BYTES = 1 << 18
# UTF-32's mark first: UTF-16's is a prefix of it.
_OTHER_MARKS = {
  codecs.BOM_UTF32_LE: 'UTF-32',
  codecs.BOM_UTF32_BE: 'UTF-32',
  codecs.BOM_UTF16_LE: 'UTF-16',
  codecs.BOM_UTF16_BE: 'UTF-16',
}
_LONGEST_MARK = max(map(len, _OTHER_MARKS))
_REMEDY = 'fix it, or set SKIP_BAD_DOCUMENTS = True to skip it'


class DocumentError(ValueError):
  """A bad document or file; the message has file, line and remedy."""


class Document(NamedTuple):
  """A text and its origin.

  Attributes:
    id: '<file name>:<line or row, from 1>'.
    text: UTF-8.
    component: the Pile's `meta.pile_set_name`, or ''.
  """

  id: str
  text: bytes
  component: str


class Record(NamedTuple):
  """A document that has not been parsed.

  Attributes:
    number: line or row, from 1.
    size: bytes in the file, decompressed.
    content: a line, a row's columns, or the error raised on parsing it.
  """

  number: int
  size: int
  content: bytes | dict[str, Any] | DocumentError


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ReadOptions:
  """Options for reading documents.

  Attributes:
    text_key: the field (JSON) or column (Parquet) that holds the text.
    skip_bad_documents: whether to skip, count and log bad documents instead of
      stopping.
    max_document_bytes: maximum size of a line, row or text file. It bounds the
      memory for a file without line breaks.
  """

  text_key: str = 'text'
  skip_bad_documents: bool = False
  max_document_bytes: int = 100_000_000

  def __post_init__(self):
    """Checks types: the string 'False', for one, would count as true.

    Raises:
      ValueError: a value of the wrong type, or a size below 1.
    """
    if not isinstance(self.text_key, str) or not self.text_key:
      raise ValueError(
        f'TEXT_KEY is {self.text_key!r}; it must be the name of a field or '
        "column, such as 'text'"
      )
    if not isinstance(self.skip_bad_documents, bool):
      raise ValueError(
        f'SKIP_BAD_DOCUMENTS is {self.skip_bad_documents!r}; it must be True '
        'or False'
      )
    size = self.max_document_bytes
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
      raise ValueError(
        f'ReadOptions.max_document_bytes is {size!r}; it must be an integer, '
        'at least 1'
      )


def suffix_of(path: str) -> str:
  """Returns the suffix that determines a file's format.

  Raises:
    DocumentError: a folder, an unknown suffix, or a name that TensorFlow
      cannot handle.
  """
  try:
    path.encode()
  except UnicodeEncodeError as e:
    shown = os.fsencode(path).decode(errors='backslashreplace')
    raise DocumentError(f'{shown}: the name is not UTF-8; rename it') from e
  for suffix in sorted(SUFFIXES, key=len, reverse=True):
    if path.endswith(suffix):
      return suffix
  _check_kind(path)
  raise DocumentError(
    f'{path}: unknown document format; the name must end in one of '
    f'{", ".join(SUFFIXES)}'
  )


def records(path: str, options: ReadOptions) -> Iterator[Record]:
  """Yields a file's documents unparsed, so that skipping one is cheap.

  Args:
    path: local or gs://, its suffix one of `SUFFIXES`.
    options: how to read.

  Raises:
    DocumentError: the file cannot be read, or is truncated.
  """
  suffix = suffix_of(path)
  _check_kind(path)
  try:
    with tf.io.gfile.GFile(path, 'rb') as f:
      if suffix == '.parquet':
        yield from _rows(f, path, options)
      elif suffix == '.txt':
        yield _whole(f, path, options)
      else:
        chunks = _chunks(f)
        compression = suffix.rpartition('.')[-1]
        if compression in ('gz', 'zst'):
          chunks = decompression.decompressed(chunks, compression)
        yield from _lines(_utf8(chunks, path), path, options)
  except tf.errors.OpError as e:
    raise DocumentError(f'{path}: cannot be read: {e.message}') from e
  except decompression.CompressedError as e:
    raise DocumentError(
      f'{path}: {e}, or set SKIP_BAD_DOCUMENTS = True to use the readable part'
    ) from e
  except parquet_rows.ParquetError as e:
    raise DocumentError(f'{path}: {e}') from e


def _check_kind(path: str) -> None:
  """Refuses folders, and pipes, which would block."""
  local = path.removeprefix('file://')
  if '://' in local:
    return
  try:
    mode = os.stat(local).st_mode
  except (OSError, ValueError):
    return  # Opening it reports the error.
  if stat.S_ISDIR(mode):
    raise DocumentError(f'{path}: a folder, not a file; name the files in it')
  if not stat.S_ISREG(mode):
    raise DocumentError(
      f'{path}: a pipe or a device, not a regular file; copy its contents to a '
      'file'
    )


def _chunks(f: BinaryIO) -> Iterator[bytes]:
  while chunk := f.read(_CHUNK_BYTES):
    yield chunk


def _utf8(chunks: Iterable[bytes], path: str) -> Iterator[bytes]:
  """Yields a file's bytes without UTF-8's byte order mark."""
  chunks = iter(chunks)
  begin = b''
  while len(begin) < _LONGEST_MARK and (chunk := next(chunks, b'')):
    begin += chunk
  yield _without_mark(begin, path)
  yield from chunks


def _without_mark(content: bytes, path: str) -> bytes:
  for mark, encoding in _OTHER_MARKS.items():
    if content.startswith(mark):
      raise DocumentError(
        f'{path}: {encoding}, not UTF-8; convert it with `iconv -f {encoding} '
        '-t UTF-8`'
      )
  return content.removeprefix(codecs.BOM_UTF8)


def _whole(f: BinaryIO, path: str, options: ReadOptions) -> Record:
  size = f.size()
  if size > options.max_document_bytes:
    return Record(1, size, _too_long(path, options))
  return Record(1, size, _without_mark(f.read(), path))


def _lines(
  chunks: Iterable[bytes], path: str, options: ReadOptions
) -> Iterator[Record]:
  """Yields the lines that are not blank."""
  number, size, parts = 1, 0, []

  def add(piece):
    nonlocal size, parts
    size += len(piece)
    if size > options.max_document_bytes:
      parts = []
    else:
      parts.append(piece)

  def line():
    nonlocal number, size, parts
    content = b''.join(parts)
    parts = []
    if size > options.max_document_bytes:
      where = f'{path}, line {number}'
      yield Record(number, size, _too_long(where, options))
    elif content and not content.isspace():
      yield Record(number, size, content)
    number, size = number + 1, 0

  for chunk in chunks:
    if size:
      piece, end, chunk = chunk.partition(b'\n')
      add(piece)
      if not end:
        continue
      yield from line()
    # Blank lines all at once: a few compressed bytes may be a billion of them.
    blank = len(chunk) - len(chunk.lstrip())
    start = chunk.rfind(b'\n', 0, blank) + 1
    number += chunk.count(b'\n', 0, start)
    *whole, rest = chunk[start:].split(b'\n')
    for piece in whole:
      add(piece)
      yield from line()
    add(rest)
  yield from line()


def _too_long(where: str, options: ReadOptions) -> DocumentError:
  return DocumentError(
    f'{where}: a document of more than {options.max_document_bytes:,} bytes; '
    'split it, raise ReadOptions.max_document_bytes, or set '
    'SKIP_BAD_DOCUMENTS = True'
  )


def _rows(f: BinaryIO, path: str, options: ReadOptions) -> Iterator[Record]:
  max_bytes = options.max_document_bytes
  for row in parquet_rows.rows(f, options.text_key, max_bytes):
    meta = {} if row.meta is None else {'meta': row.meta}
    content = {**meta, options.text_key: row.text}
    if row.damage:
      content = DocumentError(
        f'{path}, {row.damage}; download it again, or set SKIP_BAD_DOCUMENTS = '
        'True to skip them'
      )
    elif row.size > max_bytes:
      content = _too_long(f'{path}, row {row.number}', options)
    yield Record(row.number, row.size, content)


def parse(path: str, record: Record, options: ReadOptions) -> Document:
  """Parses a record into a document.

  Raises:
    DocumentError: not JSON, without text, or not UTF-8; names file and line.
  """
  content = record.content
  if isinstance(content, DocumentError):
    raise content
  name = re.split(r'[\\/]', path)[-1]
  row = 'row' if path.endswith('.parquet') else 'line'
  document_id = f'{name}:{record.number}'

  def error(what):
    return DocumentError(f'{path}, {row} {record.number}: {what}; {_REMEDY}')

  if path.endswith('.txt'):
    document_id = name
    fields = {options.text_key: _decoded(content, error)}
  elif isinstance(content, bytes):
    fields = _object(_decoded(content, error), error)
  else:
    fields = dict(content)
    if text := fields[options.text_key]:
      fields[options.text_key] = _decoded(text, error)
  text = fields.get(options.text_key)
  if text is None:
    others = [k for k in fields if k != options.text_key]
    have = parquet_rows.listed(others) or 'none'
    kind = 'null' if options.text_key in fields else 'missing'
    raise error(f'the field {options.text_key!r} is {kind} (others: {have})')
  if not isinstance(text, str):
    raise error(
      f'the field {options.text_key!r} is not text ({type(text).__name__})'
    )
  if not text.strip():
    raise error('the document is empty')
  try:
    encoded = text.encode()
  except UnicodeEncodeError as e:
    raise error(f'unpaired surrogate at character {e.start}') from e
  return Document(document_id, encoded, _component(fields.get('meta')))


def documents(
  path: str,
  options: ReadOptions,
  on_skipped: Callable[[DocumentError], object] = lambda error: None,
) -> Iterator[Document]:
  """Yields a file's documents; skips bad ones if the options say so.

  Args:
    path: local or gs://, its suffix one of `SUFFIXES`.
    options: how to read.
    on_skipped: called with the error of each document that is skipped.

  Raises:
    DocumentError: a bad document or file, unless these are skipped.
  """
  found = records(path, options)
  while True:
    try:
      record = next(found, None)
      if record is None:
        return
      document = parse(path, record, options)
    except DocumentError as error:
      if not options.skip_bad_documents:
        raise
      # A new error without a cause, which would keep the document in memory.
      on_skipped(DocumentError(str(error)))
    else:
      yield document


def _object(line: str, error) -> dict[str, Any]:
  try:
    fields = json.loads(line)
  except json.JSONDecodeError as e:
    raise error(f'not JSON ({e.msg}, column {e.colno})') from e
  except RecursionError as e:
    raise error('JSON nested too deeply') from e
  except ValueError as e:
    # Python's own limit: conversion takes quadratic time.
    limit = sys.get_int_max_str_digits()
    raise error(f'an integer of more than {limit:,} digits') from e
  if not isinstance(fields, dict):
    raise error(f'a JSON {type(fields).__name__}, not an object')
  return fields


def _decoded(content: bytes, error) -> str:
  try:
    return content.decode()
  except UnicodeDecodeError as e:
    raise error(f'invalid UTF-8 at byte {e.start}') from e


def _component(meta: Any) -> str:
  """Returns `meta.pile_set_name`; in re-uploads `meta` may be a string."""
  name = meta.get('pile_set_name') if isinstance(meta, dict) else None
  if isinstance(meta, str):
    found = re.search(r'pile_set_name[\'"]\s*:\s*[\'"]([^\'"]+)', meta)
    name = found and found[1]
  # JSON may have unpaired surrogates; TensorFlow takes UTF-8 only.
  return name.encode(errors='replace').decode() if isinstance(name, str) else ''
