"""Reader of rows of untrusted Parquet files; text stays undecoded.

Damage costs the rest of its row group, not the file.
"""

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

if TYPE_CHECKING:
  import pyarrow
  import pyarrow.parquet

_ROWS = 64
# Bounds memory: any single row may be as large as its row group.
_BATCH_BYTES = 1 << 28
_META = 'meta'
_COMPONENT = 'pile_set_name'
_SHOWN_NAMES = 5
_SHOWN_NAME_CHARACTERS = 40
_SHOWN_ERROR_CHARACTERS = 200


class ParquetError(Exception):
  """A file that is not Parquet, or has no text column; says why."""


class Row(NamedTuple):
  """A row, or a placeholder for the damaged rest of a row group.

  Attributes:
    number: from 1.
    size: bytes of text.
    text: as stored, not necessarily UTF-8; None if null or too long.
    meta: the column `meta`: text, or an object with `pile_set_name`.
    damage: the damage of the rest of the row group; '' for a row.
  """

  number: int
  size: int
  text: bytes | None
  meta: Any = None
  damage: str = ''


def listed(names: Sequence[str]) -> str:
  """Returns the first few names, as one printable line."""
  shown = [printable(n, _SHOWN_NAME_CHARACTERS) for n in names[:_SHOWN_NAMES]]
  more = len(names) - len(shown)
  return ', '.join(shown) + (f' and {more:,} more' if more else '')


def printable(text: str, characters: int = _SHOWN_ERROR_CHARACTERS) -> str:
  """Returns the start of a text, with unprintable characters as '?'."""
  begin = ' '.join(text[: characters + 1].split())
  begin = ''.join(c if c.isprintable() else '?' for c in begin)
  return begin if len(text) <= characters else begin[:characters] + '...'


def _why(error: Exception) -> str:
  return printable(str(error)) or type(error).__name__


class _FileObject(io.RawIOBase):
  """Adapter from GFile to the file interface that pyarrow needs."""

  def __init__(self, f: BinaryIO):
    super().__init__()
    self._f = f
    self._size = f.size()

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def tell(self) -> int:
    return self._f.tell()

  def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
    self._f.seek(offset=offset, whence=whence)
    return self.tell()

  def read(self, size: int = -1) -> bytes:
    # A damaged file may request any size, and GFile would allocate it.
    left = max(0, self._size - self.tell())
    return self._f.read(left if size < 0 else min(size, left))


def rows(f: BinaryIO, text_key: str, max_bytes: int) -> Iterator[Row]:
  """Yields the rows of a Parquet file.

  Args:
    f: a GFile.
    text_key: the column that holds the text.
    max_bytes: maximum size of a text; longer ones are yielded as None.

  Raises:
    ParquetError: not a Parquet file, or no such text column.
  """
  import pyarrow
  import pyarrow.parquet

  # MemoryError: a damaged file requested a huge size; nothing was allocated.
  damages = (
    pyarrow.ArrowException,
    OSError,
    UnicodeDecodeError,
    OverflowError,
    MemoryError,
  )
  try:
    file = pyarrow.parquet.ParquetFile(
      _FileObject(f), page_checksum_verification=True
    )
    schema = file.schema_arrow
    # Not the columns' metadata: pyarrow aborts the process if it is damaged.
    groups = [
      file.metadata.row_group(group) for group in range(file.num_row_groups)
    ]
    sizes = [(group.num_rows, group.total_byte_size) for group in groups]
  except damages as e:
    raise ParquetError(
      f'not a Parquet file, or a damaged one: {_why(e)}'
    ) from e
  _check_column(schema, text_key)
  columns = [text_key]
  meta = _meta_column(schema) if text_key != _META else None
  if meta:
    columns.append(meta)
  before = 0
  for group, (size, num_bytes) in enumerate(sizes):
    batch_rows = min(max(1, _BATCH_BYTES // max(1, num_bytes)), _ROWS)
    number = before
    damage = ''
    try:
      for batch in file.iter_batches(
        batch_rows, row_groups=[group], columns=columns
      ):
        texts = _stored(batch.column(text_key))
        metas = _metas(batch, meta)
        for text, value in zip(texts, metas, strict=True):
          number += 1
          length = 0 if text is None else text.size
          kept = text is not None and length <= max_bytes
          yield Row(number, length, text.to_pybytes() if kept else None, value)
      if number < before + size:
        damage = 'it is truncated'
    except damages as e:
      damage = _why(e)
    if damage:
      yield Row(
        number + 1,
        0,
        None,
        damage=f'row group {group + 1}, rows {number + 1:,} to '
        f'{before + size:,}: damaged ({damage})',
      )
    before += size


def _check_column(schema: 'pyarrow.Schema', text_key: str) -> None:
  remedy = 'set TEXT_KEY to the one that holds the text'
  count = schema.names.count(text_key)
  if not count:
    raise ParquetError(
      f'no column {text_key!r}; columns: {listed(schema.names)}; {remedy}'
    )
  if count > 1:
    raise ParquetError(
      f'{count} columns are named {text_key!r}; give them distinct names'
    )
  kind = schema.field(text_key).type
  if not _is_text(kind):
    have = listed([f.name for f in schema if _is_text(f.type)]) or 'none'
    raise ParquetError(
      f'the column {text_key!r} is not text ({printable(str(kind), 40)}); '
      f'{remedy} (text columns: {have})'
    )


def _is_text(kind: 'pyarrow.DataType') -> bool:
  """Returns whether a column has text, declared as UTF-8 or as bytes."""
  from pyarrow import types

  if types.is_dictionary(kind):
    kind = kind.value_type
  return any(
    test(kind)
    for test in (
      types.is_string,
      types.is_large_string,
      types.is_string_view,
      types.is_binary,
      types.is_large_binary,
      types.is_binary_view,
      types.is_null,
    )
  )


def _meta_column(schema: 'pyarrow.Schema') -> str | None:
  """Returns the column that has the component; only that one is read."""
  if schema.names.count(_META) != 1:
    return None
  from pyarrow import types

  kind = schema.field(_META).type
  if types.is_struct(kind) and kind.get_field_index(_COMPONENT) >= 0:
    kind = kind.field(_COMPONENT).type
    return f'{_META}.{_COMPONENT}' if _is_text(kind) else None
  return _META if _is_text(kind) else None


def _metas(batch: 'pyarrow.RecordBatch', column: str | None) -> Iterator[Any]:
  if column is None:
    yield from [None] * batch.num_rows
    return
  values = batch.column(_META)
  whole = column == _META
  for value in _stored(values if whole else values.flatten()[0]):
    text = value and value.to_pybytes().decode(errors='replace')
    yield text if whole else {_COMPONENT: text}


def _stored(column: 'pyarrow.Array') -> Iterator['pyarrow.Buffer | None']:
  """Yields the bytes of each value.

  Undecoded: pyarrow would reject all values for one that is not UTF-8. Value by
  value, since expanding a dictionary would repeat its long values.
  """
  from pyarrow import types

  for value in column:
    if types.is_dictionary(column.type):
      value = value.value
    yield None if types.is_null(value.type) else value.as_buffer()
