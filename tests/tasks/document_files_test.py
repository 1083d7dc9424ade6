"""Files of documents: every format, every kind of damage."""

import gzip
import json

import document_corpora
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from fnet_t5x.tasks import document_files

_GOOD = document_corpora.json_lines([1])
_NUMBERS = range(40)


def _documents(path, **options):
  options = document_files.ReadOptions(**options)
  return [
    document_files.parse(str(path), record, options)
    for record in document_files.records(str(path), options)
  ]


@pytest.mark.parametrize(
  'suffix', [s for s in document_files.SUFFIXES if s != '.txt']
)
def test_every_format_gives_the_same_documents(tmp_path, suffix):
  path = document_corpora.write(tmp_path / f'part{suffix}', _NUMBERS)
  documents = _documents(path)
  assert [d.text.decode() for d in documents] == [
    document_corpora.text(n) for n in _NUMBERS
  ]
  assert [d.component for d in documents] == [
    document_corpora.component(n) for n in _NUMBERS
  ]
  assert [d.id for d in documents] == [
    f'part{suffix}:{n + 1}' for n in _NUMBERS
  ]


def test_a_text_file_is_one_document(tmp_path):
  path = document_corpora.write(tmp_path / 'a.txt', [3])
  assert _documents(path) == [
    document_files.Document('a.txt', document_corpora.text(3).encode(), '')
  ]


@pytest.mark.parametrize(
  ('suffix', 'compress'),
  [('gz', gzip.compress), ('zst', zstandard.compress)],
)
def test_frames_follow_one_another(tmp_path, suffix, compress):
  path = tmp_path / f'a.jsonl.{suffix}'
  frames = (compress(document_corpora.json_lines([n])) for n in range(5))
  path.write_bytes(b''.join(frames) + (b'\0' * 9 if suffix == 'gz' else b''))
  assert len(_documents(path)) == 5


def test_lines_longer_than_a_chunk_and_blank_ones(tmp_path):
  texts = ['a' * 700_000, 'b', 'c' * 300_000]
  lines = [json.dumps({'text': t}) for t in texts]
  path = tmp_path / 'a.jsonl'
  path.write_text('\n'.join([lines[0], '', '  ', lines[1], lines[2]]))
  documents = _documents(path)
  assert [d.text.decode() for d in documents] == texts
  # Lines are counted as an editor counts them.
  assert [d.id for d in documents] == ['a.jsonl:1', 'a.jsonl:4', 'a.jsonl:5']


def test_a_document_of_50_megabytes(tmp_path):
  path = tmp_path / 'a.jsonl.zst'
  long = 'word ' * 10_000_000
  path.write_bytes(
    zstandard.compress(_GOOD + json.dumps({'text': long}).encode() + b'\n')
  )
  assert [len(d.text) for d in _documents(path)][1] == 50_000_000
  with pytest.raises(ValueError, match=r'line 2: .* more than 1,000,000 bytes'):
    _documents(path, max_document_bytes=1_000_000)


@pytest.mark.parametrize('meta', ["{'pile_set_name': 'ArXiv'}", None, 'x', 3])
def test_components_of_re_uploads(tmp_path, meta):
  path = tmp_path / 'a.jsonl'
  path.write_text(json.dumps({'text': 'a', 'meta': meta}))
  expected = 'ArXiv' if 'ArXiv' in str(meta) else ''
  assert _documents(path)[0].component == expected


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    (b'{"text": ', r'not JSON \(Expecting value, column 10\)'),
    (b'[1, 2]', r'a JSON list, not an object'),
    (b'{"txt": "a"}', r"the field 'text' is missing \(others: txt\)"),
    (b'{"text": null}', r"the field 'text' is null \(others: none\)"),
    (b'{"text": 3}', r"the field 'text' is no text \(int\)"),
    (b'{"text": "a\xff"}', r'invalid UTF-8 at byte 11'),
    (b'{"text": "\\ud800"}', r'half of a surrogate pair at character 0'),
    (b'{"text": ""}', r'the document is empty'),
    (b'{"text": " \\n"}', r'the document is empty'),
  ],
)
def test_bad_line_is_named(tmp_path, line, message):
  path = tmp_path / 'a.jsonl'
  path.write_bytes(_GOOD + line + b'\n' + _GOOD)
  with pytest.raises(document_files.DocumentError) as error:
    _documents(path)
  assert error.match(rf'a\.jsonl, line 2: {message}; .*SKIP_BAD_DOCUMENTS')
  assert '\n' not in str(error.value)


def test_bad_row_is_named(tmp_path):
  path = tmp_path / 'a.parquet'
  table = pyarrow.table({'text': ['a', None]})
  pyarrow.parquet.write_table(table, path)
  with pytest.raises(
    ValueError, match=r"parquet, row 2: the field 'text' is n"
  ):
    _documents(path)
  with pytest.raises(
    ValueError, match=r"no column 'body'; it has text; set TE"
  ):
    _documents(path, text_key='body')


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('a.jsonl.zst', zstandard.compress(_GOOD * 999)[:-9], 'truncated or dama'),
    ('a.jsonl.gz', gzip.compress(_GOOD * 999)[:-9], 'truncated or damaged'),
    ('a.jsonl.gz', b'no gzip', 'truncated or damaged'),
    ('a.jsonl.zst', b'no zstd', 'truncated or damaged'),
    ('a.parquet', b'no Parquet', 'not a Parquet file'),
    ('a.csv', b'a', r'not a format of documents; .* \.parquet'),
    ('none.jsonl', None, 'cannot be read: .*No such file'),
  ],
)
def test_damaged_file_is_named(tmp_path, name, content, message):
  path = tmp_path / name
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(document_files.DocumentError) as error:
    _documents(path)
  assert error.match(f'{name}: {message}')
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('suffix', ['gz', 'zst'])
def test_what_is_before_the_damage_can_be_read(tmp_path, suffix):
  compress = {'gz': gzip.compress, 'zst': zstandard.compress}[suffix]
  path = tmp_path / f'a.jsonl.{suffix}'
  # A whole frame, then one that breaks off at once.
  path.write_bytes(compress(_GOOD * 5) + compress(_GOOD * 5)[:15])
  records = document_files.records(str(path), document_files.ReadOptions())
  assert [next(records).number for _ in range(5)] == [1, 2, 3, 4, 5]
  with pytest.raises(document_files.DocumentError, match='truncated'):
    next(records)
