"""Documents in files: JSON lines (plain, .gz, .zst), Parquet, plain text.

Local paths and gs:// alike. What is wrong with a file is said in one line that
names the file and the line.
"""

import dataclasses
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import gin
import tensorflow as tf
import zstandard

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
_PARQUET_ROWS = 64
_REMEDY = 'mend it, or set SKIP_BAD_DOCUMENTS = True to leave it out'


class DocumentError(ValueError):
  """What is wrong with a document: file, line, and what to do."""


class Document(NamedTuple):
  """A text, and where it came from.

  Attributes:
    id: '<file name>:<line or row, from 1>'.
    text: UTF-8.
    component: the Pile's `meta.pile_set_name`; '' where there is none.
  """

  id: str
  text: bytes
  component: str


class Record(NamedTuple):
  """A document not parsed yet.

  Attributes:
    number: line or row, from 1.
    size: bytes in the file, decompressed.
    content: a line, a row's columns, or the error that stands in its place.
  """

  number: int
  size: int
  content: bytes | dict[str, Any] | DocumentError


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ReadOptions:
  """How documents are read.

  Attributes:
    text_key: the field (JSON) or column (Parquet) that holds the text.
    skip_bad_documents: leave out what is no document, count and log it, instead
      of stopping.
    max_document_bytes: longest line, row or text file. It bounds the memory
      that a file without line ends takes.
  """

  text_key: str = 'text'
  skip_bad_documents: bool = False
  max_document_bytes: int = 100_000_000


def suffix_of(path: str) -> str:
  """The suffix that decides how a file is read.

  Raises:
    DocumentError: none of `SUFFIXES`.
  """
  for suffix in sorted(SUFFIXES, key=len, reverse=True):
    if path.endswith(suffix):
      return suffix
  raise DocumentError(
    f'{path}: not a format of documents; the name must end in one of '
    f'{", ".join(SUFFIXES)}'
  )


def records(path: str, options: ReadOptions) -> Iterator[Record]:
  """Yields a file's documents, not parsed yet: skipping one costs little.

  Args:
    path: local or gs://, its suffix one of `SUFFIXES`.
    options: how to read.

  Raises:
    DocumentError: the file cannot be read, or ends too early.
  """
  suffix = suffix_of(path)
  try:
    with tf.io.gfile.GFile(path, 'rb') as f:
      if suffix == '.parquet':
        yield from _parquet_rows(f, path, options)
      elif suffix == '.txt':
        yield _whole(f, path, options)
      else:
        yield from _lines(_decompressed(f, suffix), path, options)
  except tf.errors.OpError as e:
    raise DocumentError(f'{path}: cannot be read: {e.message}') from e
  except (EOFError, zlib.error, zstandard.ZstdError) as e:
    raise DocumentError(
      f'{path}: truncated or damaged ({e}); fetch it again, or set '
      'SKIP_BAD_DOCUMENTS = True to take what can be read'
    ) from e


def _whole(f: BinaryIO, path: str, options: ReadOptions) -> Record:
  size = f.size()
  if size > options.max_document_bytes:
    return Record(1, size, _too_long(path, options))
  return Record(1, size, f.read())


def _decompressed(f: BinaryIO, suffix: str) -> Iterator[bytes]:
  """Yields the bytes of a file, chunk by chunk.

  Both formats allow several frames in a file. The libraries' own readers of
  files do not serve: zstandard's takes the end of a truncated file for the end
  of its text, gzip's loses the last bytes before it.
  """
  new_frame = {'gz': _gzip_frame, 'zst': _zstd_frame}.get(suffix.split('.')[-1])
  if new_frame is None:
    while chunk := f.read(_CHUNK_BYTES):
      yield chunk
    return
  frame = None
  while data := f.read(_CHUNK_BYTES):
    while data:
      frame = frame or new_frame()
      if chunk := frame.decompress(data):
        yield chunk
      data = b''
      if frame.eof:
        # gzip files may be padded with zeros.
        data, frame = frame.unused_data.lstrip(b'\0'), None
  if frame:
    raise EOFError('the file ends before its compressed data does')


def _gzip_frame():
  return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)


def _zstd_frame():
  # Long-range compression takes windows of up to 2 GiB.
  decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
  return decompressor.decompressobj()


def _lines(
  chunks: Iterable[bytes], path: str, options: ReadOptions
) -> Iterator[Record]:
  """Yields lines that are not blank."""
  number, size, parts = 1, 0, []

  def line():
    if size > options.max_document_bytes:
      where = f'{path}, line {number}'
      yield Record(number, size, _too_long(where, options))
      return
    content = b''.join(parts)
    if content and not content.isspace():
      yield Record(number, size, content)

  for chunk in chunks:
    for i, piece in enumerate(chunk.split(b'\n')):
      if i:
        yield from line()
        number, size, parts = number + 1, 0, []
      size += len(piece)
      if size > options.max_document_bytes:
        parts = []
      else:
        parts.append(piece)
  yield from line()


def _too_long(where: str, options: ReadOptions) -> DocumentError:
  return DocumentError(
    f'{where}: a document of more than {options.max_document_bytes:,} bytes; '
    'split it, raise ReadOptions.max_document_bytes, or set '
    'SKIP_BAD_DOCUMENTS = True'
  )


class _FileObject(io.RawIOBase):
  """What pyarrow asks of a file, and GFile lacks."""

  def __init__(self, f: BinaryIO):
    super().__init__()
    self._f = f

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def tell(self) -> int:
    return self._f.tell()

  def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
    self._f.seek(offset=offset, whence=whence)
    return self.tell()

  def readinto(self, buffer) -> int:
    data = self._f.read(len(buffer))
    buffer[: len(data)] = data
    return len(data)


def _parquet_rows(
  f: BinaryIO, path: str, options: ReadOptions
) -> Iterator[Record]:
  import pyarrow
  import pyarrow.parquet

  try:
    file = pyarrow.parquet.ParquetFile(_FileObject(f))
  except pyarrow.ArrowInvalid as e:
    raise DocumentError(f'{path}: not a Parquet file: {e}') from e
  names = file.schema_arrow.names
  if options.text_key not in names:
    raise DocumentError(
      f'{path}: no column {options.text_key!r}; it has {", ".join(names)}; set '
      'TEXT_KEY to the one that holds the text'
    )
  columns = [c for c in (options.text_key, 'meta') if c in names]
  number = 0
  try:
    for batch in file.iter_batches(_PARQUET_ROWS, columns=columns):
      for row in batch.to_pylist():
        number += 1
        size = len(row[options.text_key] or '')
        if size > options.max_document_bytes:
          where = f'{path}, row {number}'
          yield Record(number, size, _too_long(where, options))
        else:
          yield Record(number, size, row)
  except (pyarrow.ArrowInvalid, UnicodeDecodeError) as e:
    raise EOFError(f'after row {number}: {e}') from e


def parse(path: str, record: Record, options: ReadOptions) -> Document:
  """Returns a record's document.

  Raises:
    DocumentError: not JSON, no text in it, or no UTF-8; names file and line.
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
    try:
      fields = json.loads(_decoded(content, error))
    except json.JSONDecodeError as e:
      raise error(f'not JSON ({e.msg}, column {e.colno})') from e
    if not isinstance(fields, dict):
      raise error(f'a JSON {type(fields).__name__}, not an object')
  else:
    fields = content
  text = fields.get(options.text_key)
  if text is None:
    have = ', '.join(k for k in fields if k != options.text_key) or 'none'
    kind = 'null' if options.text_key in fields else 'missing'
    raise error(f'the field {options.text_key!r} is {kind} (others: {have})')
  if not isinstance(text, str):
    raise error(
      f'the field {options.text_key!r} is no text ({type(text).__name__})'
    )
  if not text.strip():
    raise error('the document is empty')
  try:
    encoded = text.encode()
  except UnicodeEncodeError as e:
    raise error(f'half of a surrogate pair at character {e.start}') from e
  return Document(document_id, encoded, _component(fields.get('meta')))


def documents(
  path: str,
  options: ReadOptions,
  left_out: Callable[[DocumentError], object] = lambda error: None,
) -> Iterator[Document]:
  """Yields a file's documents; leaves bad ones out if the options say so.

  Args:
    path: local or gs://, its suffix one of `SUFFIXES`.
    options: how to read.
    left_out: told of each bad document that is left out.

  Raises:
    DocumentError: a bad document or file, unless such are left out.
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
      left_out(error)
    else:
      yield document


def _decoded(content: bytes, error) -> str:
  try:
    return content.decode()
  except UnicodeDecodeError as e:
    raise error(f'invalid UTF-8 at byte {e.start}') from e


def _component(meta: Any) -> str:
  """`pile_set_name` of a `meta` field: an object, or its text in re-uploads."""
  if isinstance(meta, dict):
    return str(meta.get('pile_set_name') or '')
  if not isinstance(meta, str):
    return ''
  found = re.search(r'pile_set_name[\'"]\s*:\s*[\'"]([^\'"]+)', meta)
  return found[1] if found else ''
