"""Hostile Parquet files: readable rows are read, errors name the rest."""

import pyarrow
import pyarrow.parquet
import pytest

from fnet_t5x.tasks import document_files

_GROUP = 100


def _read(path, **options):
  """Returns texts, and the messages of skipped documents."""
  skipped = []
  options = document_files.ReadOptions(skip_bad_documents=True, **options)
  found = list(document_files.documents(str(path), options, skipped.append))
  return found, [str(e) for e in skipped]


def _error(path, **options):
  with pytest.raises(document_files.DocumentError) as error:
    list(
      document_files.documents(str(path), document_files.ReadOptions(**options))
    )
  assert '\n' not in str(error.value)
  return str(error.value)


def _write(path, **columns):
  table = pyarrow.table(columns)
  pyarrow.parquet.write_table(
    table, path, row_group_size=_GROUP, compression='none', use_dictionary=False
  )
  return path


def _invalid(values):
  """Makes a column that claims to be UTF-8, and is not."""
  column = pyarrow.array(values, pyarrow.binary())
  return pyarrow.StringArray.from_buffers(
    len(column), *column.buffers()[1:], column.buffers()[0]
  )


@pytest.mark.parametrize('bad', [[0], [64], [3, 5, 999], list(range(1000))])
def test_only_rows_that_are_not_utf8_are_lost(tmp_path, bad):
  values = [b'\xff' if n in bad else b'%d' % n for n in range(1000)]
  path = _write(tmp_path / 'a.parquet', text=_invalid(values))
  found, skipped = _read(path)
  assert [int(d.text) for d in found] == [
    n for n in range(1000) if n not in bad
  ]
  assert [d.id for d in found] == [
    f'a.parquet:{int(d.text) + 1}' for d in found
  ]
  assert len(skipped) == len(bad)
  for n, message in zip(bad, skipped, strict=True):
    assert message.startswith(f'{path}, row {n + 1}: invalid UTF-8 at byte 0; ')
    assert 'SKIP_BAD_DOCUMENTS = True' in message
  assert _error(path) == skipped[0]


def test_components_that_are_not_utf8_are_tolerated(tmp_path):
  names = _invalid([b'ArXiv', b'a\xff', None])
  struct = pyarrow.StructArray.from_arrays([names], ['pile_set_name'])
  whole = _invalid([b"{'pile_set_name': 'ArXiv'}", b'\xff', None])
  for meta, second in ((struct, 'a\ufffd'), (whole, '')):
    path = _write(tmp_path / 'a.parquet', text=['a', 'b', 'c'], meta=meta)
    found, skipped = _read(path)
    assert [d.component for d in found] == ['ArXiv', second, '']
    assert not skipped


def test_damaged_page_costs_its_row_group(tmp_path):
  texts = [f'text {n:04} ' + 'x' * 50 for n in range(1000)]
  path = _write(tmp_path / 'a.parquet', text=texts)
  content = path.read_bytes()
  # The header of the third row group's page.
  metadata = pyarrow.parquet.ParquetFile(path).metadata
  start = metadata.row_group(2).column(0).data_page_offset
  path.write_bytes(content[:start] + b'\xff' * 20 + content[start + 20 :])
  found, skipped = _read(path)
  rows = [int(d.id.split(':')[1]) for d in found]
  assert rows == [n for n in range(1, 1001) if not 200 < n <= 300]
  assert [d.text.decode() for d in found] == [texts[n - 1] for n in rows]
  (message,) = skipped
  assert f'{path}, row group 3, rows 201 to 300: damaged (' in message
  assert 'SKIP_BAD_DOCUMENTS = True' in message
  assert _error(path) == message


def test_checksum_detects_damage(tmp_path):
  path = tmp_path / 'a.parquet'
  pyarrow.parquet.write_table(
    pyarrow.table({'text': [f'text {n}' for n in range(20)]}),
    path,
    row_group_size=10,
    write_page_checksum=True,
    compression='none',
    use_dictionary=False,
  )
  path.write_bytes(path.read_bytes().replace(b'text 3', b'tex! 3', 1))
  found, skipped = _read(path)
  assert [d.text for d in found] == [b'text %d' % n for n in range(10, 20)]
  assert 'row group 1, rows 1 to 10: damaged (' in skipped[0]


@pytest.mark.parametrize('position', [5, 8, 60])
def test_damaged_footer_is_named(tmp_path, position):
  path = _write(tmp_path / 'a.parquet', text=['a'] * 500)
  content = bytearray(path.read_bytes())
  content[-position - 12 : -position] = b'\xff' * 12
  path.write_bytes(content)
  message = _error(path)
  assert message.startswith(f'{path}')
  assert 'not a Parquet file' in message or 'damaged' in message
  assert _read(path)[1][0] == message


@pytest.mark.parametrize(
  ('kind', 'value', 'name'),
  [
    (pyarrow.int64(), 1, 'int64'),
    (pyarrow.float32(), 1.0, 'float'),
    (pyarrow.bool_(), True, 'bool'),
    (pyarrow.timestamp('ms'), 1, 'timestamp[ms]'),
    (pyarrow.list_(pyarrow.string()), ['a'], 'list<element: string>'),
    (
      pyarrow.struct([('a', pyarrow.string())]),
      {'a': 'b'},
      'struct<a: string>',
    ),
  ],
)
def test_column_that_is_not_text_is_an_error(tmp_path, kind, value, name):
  path = _write(
    tmp_path / 'a.parquet', text=pyarrow.array([value], kind), body=['b']
  )
  message = _error(path)
  assert message.startswith(f"{path}: the column 'text' is not text ({name}); ")
  assert 'TEXT_KEY' in message and message.endswith(': body)')
  assert [d.text for d in _read(path, text_key='body')[0]] == [b'b']


@pytest.mark.parametrize(
  'kind',
  [
    pyarrow.string(),
    pyarrow.large_string(),
    pyarrow.string_view(),
    pyarrow.binary(),
    pyarrow.large_binary(),
    pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
  ],
)
def test_every_kind_of_text(tmp_path, kind):
  values = ['é', None, 'b']
  column = pyarrow.array(values)
  column = (
    column.dictionary_encode()
    if pyarrow.types.is_dictionary(kind)
    else column.cast(kind)
  )
  path = _write(tmp_path / 'a.parquet', text=column)
  found, skipped = _read(path)
  assert [d.text.decode() for d in found] == ['é', 'b']
  assert [d.id for d in found] == ['a.parquet:1', 'a.parquet:3']
  assert "row 2: the field 'text' is null (others: none)" in skipped[0]


def test_columns_are_not_all_listed(tmp_path):
  path = _write(tmp_path / 'a.parquet', **{f'c{i}': ['a'] for i in range(500)})
  message = _error(path)
  assert message.startswith(f"{path}: no column 'text'; ")
  assert ': c0, c1, c2, c3, c4 and 495 more; set TEXT_KEY' in message


def test_two_columns_with_the_same_name(tmp_path):
  path = tmp_path / 'a.parquet'
  table = pyarrow.table([['a'], ['b']], names=['text', 'text'])
  pyarrow.parquet.write_table(table, path)
  assert _error(path).startswith(f"{path}: 2 columns are named 'text'; ")


def test_column_meta_may_hold_the_text(tmp_path):
  path = _write(tmp_path / 'a.parquet', meta=['a', 'b'])
  found, _ = _read(path, text_key='meta')
  assert [d.text for d in found] == [b'a', b'b']


@pytest.mark.slow
@pytest.mark.parametrize('as_dictionary', [False, True])
def test_memory_does_not_grow_with_rows_that_repeat_a_value(
  tmp_path, as_dictionary
):
  """2 GB of text in a file of slightly more than a kilobyte."""
  path = tmp_path / 'a.parquet'
  column = pyarrow.DictionaryArray.from_arrays(
    pyarrow.array([0] + [1] * 100 + [0], pyarrow.int32()),
    pyarrow.array(['a', 'b' * 20_000_000]),
  )
  pyarrow.parquet.write_table(
    pyarrow.table({'text': column}),
    path,
    compression='zstd',
    store_schema=as_dictionary,
  )
  options = document_files.ReadOptions(max_document_bytes=1_000_000)
  before = pyarrow.total_allocated_bytes()
  most = 0
  sizes = []
  for record in document_files.records(str(path), options):
    most = max(most, pyarrow.total_allocated_bytes() - before)
    sizes.append(record.size)
  assert sizes == [1] + [20_000_000] * 100 + [1]
  assert most < 400_000_000
