"""Rows of Parquet files whose authors are not trusted: text as it is stored.

What cannot be read costs its row group, not the file.
"""

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

if TYPE_CHECKING:
  import pyarrow
  import pyarrow.parquet

_ROWS = 64
# A row may hold as much as its row group, and each row the same.
_BATCH_BYTES = 1 << 28
_META = 'meta'
_COMPONENT = 'pile_set_name'
_SHOWN_NAMES = 5
_SHOWN_NAME_CHARACTERS = 40
_SHOWN_ERROR_CHARACTERS = 200


class ParquetError(Exception):
  """A file that is not Parquet, or without a column of text: why."""


class Row(NamedTuple):
  """A row, or what stands in the place of several.

  Attributes:
    number: from 1.
    size: bytes of its text.
    text: as it is stored, perhaps no UTF-8; None is null, or too long.
    meta: the column `meta`: text, or an object with `pile_set_name`.
    damage: what is wrong with the rest of its row group; '' for a row.
  """

  number: int
  size: int
  text: bytes | None
  meta: Any = None
  damage: str = ''


def listed(names: Sequence[str]) -> str:
  """Returns the first few of some names, fit to be printed in one line."""
  shown = [printable(n, _SHOWN_NAME_CHARACTERS) for n in names[:_SHOWN_NAMES]]
  more = len(names) - len(shown)
  return ', '.join(shown) + (f' and {more:,} more' if more else '')


def printable(text: str, characters: int = _SHOWN_ERROR_CHARACTERS) -> str:
  """Returns the beginning of a text, without what is no sign or blank."""
  begin = ' '.join(text[: characters + 1].split())
  begin = ''.join(c if c.isprintable() else '?' for c in begin)
  return begin if len(text) <= characters else begin[:characters] + '...'


def _why(error: Exception) -> str:
  return printable(str(error)) or type(error).__name__


class _FileObject(io.RawIOBase):
  """What pyarrow asks of a file, and GFile lacks."""

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
    # A damaged file may ask for any size: as much memory would be taken.
    left = max(0, self._size - self.tell())
    return self._f.read(left if size < 0 else min(size, left))


def rows(f: BinaryIO, text_key: str, max_bytes: int) -> Iterator[Row]:
  """Yields the rows of a Parquet file.

  Args:
    f: a GFile.
    text_key: the column that holds the text.
    max_bytes: of a text; of what is longer, the size alone is given.

  Raises:
    ParquetError: it is not Parquet, or has no such column of text.
  """
  import pyarrow
  import pyarrow.parquet

  # MemoryError: a size that a damaged file asks for. It was not taken.
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
    # Not its columns' metadata: pyarrow aborts the process where those are
    # damaged.
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
        damage = 'it ends too early'
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
      f'no column {text_key!r}; it has {listed(schema.names)}; {remedy}'
    )
  if count > 1:
    raise ParquetError(
      f'{count} columns named {text_key!r}; give each a name of its own'
    )
  kind = schema.field(text_key).type
  if not _is_text(kind):
    have = listed([f.name for f in schema if _is_text(f.type)]) or 'none'
    raise ParquetError(
      f'the column {text_key!r} is no text ({printable(str(kind), 40)}); '
      f'{remedy} (columns of text: {have})'
    )


def _is_text(kind: 'pyarrow.DataType') -> bool:
  """Whether a column's values are text, also where it does not say UTF-8."""
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
  """The column to read for the component: no more than that is read."""
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

  They are not converted: pyarrow would refuse all for one that is no UTF-8.
  Nor is a dictionary, whose values may be long, written out.
  """
  from pyarrow import types

  for value in column:
    if types.is_dictionary(column.type):
      value = value.value
    yield None if types.is_null(value.type) else value.as_buffer()
