"""Files of documents: every format, every kind of damage."""

import codecs
import gzip
import json
import os
import random

import document_corpora
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow as tf
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
  # Lines are numbered as in an editor.
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


@pytest.mark.parametrize(
  ('meta', 'component'),
  [
    ('{"pile_set_name": "a\\ud800b"}', 'a?b'),
    ("\"{'pile_set_name': 'a\\ud800b'}\"", 'a?b'),
    ('{"pile_set_name": 3}', ''),
    ('{"pile_set_name": ["ArXiv"]}', ''),
    ('{"pile_set_name": ' + '[' * 900 + ']' * 900 + '}', ''),
    ('{"other": "\\udfff"}', ''),
    ('"\\udfff"', ''),
  ],
)
def test_other_fields_do_no_harm(tmp_path, meta, component):
  path = tmp_path / 'a.jsonl'
  path.write_text(f'{{"text": "a", "meta": {meta}}}\n')
  (document,) = _documents(path)
  assert document.component == component
  # TensorFlow accepts it.
  assert tf.constant(document.component).numpy() == component.encode()


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
    (b'{"text": 3}', r"the field 'text' is not text \(int\)"),
    (b'{"text": "a\xff"}', r'invalid UTF-8 at byte 11'),
    (b'{"text": "\\ud800"}', r'unpaired surrogate at character 0'),
    (b'{"text": ""}', r'the document is empty'),
    (b'{"text": " \\n"}', r'the document is empty'),
    (b'{"text": "a", "n": ' + b'9' * 5000 + b'}', r'an integer of more than'),
    (b'{"text": ' + b'9' * 5000 + b'}', r'an integer of more than 4,300 dig'),
    (b'{"a": ' + b'[' * 99_999 + b']' * 99_999 + b'}', r'JSON nested too deep'),
    (b'[' * 10**6, r'JSON nested too deep'),
    (b'{"text": ' + b'{"a":' * 10**6, r'JSON nested too deep'),
    (
      b'{"a\\nb\\ud800\\u001b": 1}',
      r"the field 'text' is missing \(others: a b\?\?\)",
    ),
    (
      b'{"' + b'k' * 9999 + b'": 1}',
      r"the field 'text' is missing \(others: k{40}\.\.\.\)",
    ),
    (
      json.dumps({f'k{i}': i for i in range(20_000)}).encode(),
      r"the field 'text' is missing .*: k0, k1, k2, k3, k4 and 19,995 more\)",
    ),
  ],
)
def test_bad_line_is_named(tmp_path, line, message):
  path = tmp_path / 'a.jsonl'
  path.write_bytes(_GOOD + line + b'\n' + _GOOD)
  with pytest.raises(document_files.DocumentError) as error:
    _documents(path)
  # The message may be a prefix of the line's.
  assert error.match(rf'a\.jsonl, line 2: {message}.*; .*SKIP_BAD_DOCUMENTS')
  assert '\n' not in str(error.value)
  assert len(str(error.value)) < 300 + len(str(path))
  skipped = []
  documents = document_files.documents(
    str(path),
    document_files.ReadOptions(skip_bad_documents=True),
    skipped.append,
  )
  assert [d.id for d in documents] == ['a.jsonl:1', 'a.jsonl:3']
  assert [str(e) for e in skipped] == [str(error.value)]
  # A cause or traceback would keep the document in memory.
  assert skipped[0].__cause__ is skipped[0].__traceback__ is None


def test_bad_row_is_named(tmp_path):
  path = tmp_path / 'a.parquet'
  table = pyarrow.table({'text': ['a', None]})
  pyarrow.parquet.write_table(table, path)
  with pytest.raises(
    ValueError, match=r"parquet, row 2: the field 'text' is n"
  ):
    _documents(path)
  with pytest.raises(
    ValueError, match=r"no column 'body'; columns: text; set TE"
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
    ('a.csv', b'a', r'unknown document format; .* \.parquet'),
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
def test_documents_before_the_damage_can_be_read(tmp_path, suffix):
  compress = {'gz': gzip.compress, 'zst': zstandard.compress}[suffix]
  path = tmp_path / f'a.jsonl.{suffix}'
  # A complete frame, then a truncated one.
  path.write_bytes(compress(_GOOD * 5) + compress(_GOOD * 5)[:15])
  records = document_files.records(str(path), document_files.ReadOptions())
  assert [next(records).number for _ in range(5)] == [1, 2, 3, 4, 5]
  with pytest.raises(document_files.DocumentError, match='truncated'):
    next(records)


@pytest.mark.parametrize('text', ['a', '', 'ab\ncd', '\ufeff'])
@pytest.mark.parametrize('suffix', ['jsonl', 'jsonl.gz', 'jsonl.zst', 'txt'])
def test_byte_order_mark_is_dropped(tmp_path, suffix, text):
  path = tmp_path / f'a.{suffix}'
  content = text if suffix == 'txt' else json.dumps({'text': text})
  content = codecs.BOM_UTF8 + content.encode()
  compress = {'jsonl.gz': gzip.compress, 'jsonl.zst': zstandard.compress}
  path.write_bytes(compress.get(suffix, bytes)(content))
  if text:
    assert [d.text.decode() for d in _documents(path)] == [text]
  else:
    with pytest.raises(document_files.DocumentError, match='document is empty'):
      _documents(path)


@pytest.mark.parametrize('content', [b'', codecs.BOM_UTF8, b'\n', b'\n\n \n'])
def test_files_without_a_line_have_no_document(tmp_path, content):
  path = tmp_path / 'a.jsonl'
  path.write_bytes(content)
  assert _documents(path) == []


@pytest.mark.parametrize('encoding', ['UTF-16', 'UTF-32'])
@pytest.mark.parametrize('order', ['LE', 'BE'])
@pytest.mark.parametrize('suffix', ['jsonl', 'txt'])
def test_other_encodings_are_named(tmp_path, suffix, encoding, order):
  path = tmp_path / f'a.{suffix}'
  text = '\ufeff{"text": "a"}\n'
  path.write_bytes(text.encode(f'{encoding}-{order}'))
  with pytest.raises(
    document_files.DocumentError,
    match=rf'{suffix}: {encoding}, not UTF-8; convert it with `iconv -f '
    rf'{encoding} -t UTF-8`$',
  ):
    _documents(path)


@pytest.mark.parametrize('suffix', document_files.SUFFIXES)
@pytest.mark.parametrize(
  ('kind', 'message'),
  [
    ('folder', 'a folder, not a file; name the files in it'),
    ('pipe', 'a pipe or a device, not a regular file; copy'),
    ('device', 'a pipe or a device, not a regular file; copy'),
    ('link to none', 'cannot be read: .*No such file'),
    ('circle of links', 'cannot be read: .*symbolic links'),
  ],
)
def test_anything_but_a_file_is_an_error(tmp_path, suffix, kind, message):
  path = tmp_path / f'a{suffix}'
  if kind == 'folder':
    path.mkdir()
  elif kind == 'pipe':
    os.mkfifo(path)
  else:
    path.symlink_to(
      {'device': '/dev/zero', 'link to none': 'none'}.get(kind, path)
    )
  for name in (str(path), f'file://{path}'):
    with pytest.raises(
      document_files.DocumentError, match=f'a{suffix}: {message}'
    ):
      list(document_files.records(name, document_files.ReadOptions()))


def test_folder_of_any_name_is_named(tmp_path):
  with pytest.raises(
    document_files.DocumentError, match='a folder, not a file; name the files'
  ):
    document_files.suffix_of(str(tmp_path))


def test_name_that_is_not_utf8_is_an_error(tmp_path):
  path = os.fsencode(tmp_path) + b'/caf\xe9.jsonl'
  with open(path, 'wb') as f:
    f.write(_GOOD)
  with pytest.raises(
    document_files.DocumentError, match=r'/caf\\xe9\.jsonl: the name is not UT'
  ):
    _documents(os.fsdecode(path))


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'skip_bad_documents': 'False'}, "SKIP_BAD_DOCUMENTS is 'False'; it must"),
    ({'skip_bad_documents': 1}, 'SKIP_BAD_DOCUMENTS is 1; it must be True or'),
    ({'skip_bad_documents': None}, 'SKIP_BAD_DOCUMENTS is None; it must be'),
    ({'text_key': None}, 'TEXT_KEY is None; it must be the name'),
    ({'text_key': ''}, "TEXT_KEY is ''; it must be the name"),
    ({'text_key': ['text']}, r"TEXT_KEY is \['text'\]; it must be the name"),
    ({'max_document_bytes': '9'}, "max_document_bytes is '9'; it must be an i"),
    ({'max_document_bytes': 1e6}, r'max_document_bytes is 1000000\.0; it must'),
    ({'max_document_bytes': True}, 'max_document_bytes is True; it must be a'),
    ({'max_document_bytes': 0}, 'max_document_bytes is 0; it must be an int'),
    ({'max_document_bytes': None}, 'max_document_bytes is None; it must be a'),
  ],
)
def test_options_of_another_type_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    document_files.ReadOptions(**options)


@pytest.mark.parametrize('suffix', ['jsonl', 'jsonl.zst', 'parquet', 'txt'])
@pytest.mark.parametrize('spare', [-1, 0])
def test_the_limit_counts_bytes(tmp_path, suffix, spare):
  text = 'é' * 500
  path = tmp_path / f'a.{suffix}'
  line = json.dumps({'text': text}, ensure_ascii=False).encode()
  size = len(line) if 'json' in suffix else 1000
  if suffix == 'parquet':
    pyarrow.parquet.write_table(pyarrow.table({'text': [text]}), path)
  elif suffix == 'txt':
    path.write_text(text)
  else:
    path.write_bytes(zstandard.compress(line) if 'zst' in suffix else line)
  if spare == 0:
    assert len(_documents(path, max_document_bytes=size)) == 1
  else:
    with pytest.raises(ValueError, match=f'more than {size - 1:,} bytes'):
      _documents(path, max_document_bytes=size - 1)


@pytest.mark.parametrize('chunk', [1, 2, 3, 5, 8, 100])
def test_lines_are_those_of_any_chunks(tmp_path, monkeypatch, chunk):
  lines = ['', ' ', '{"text": "a"}', '', '\t', '\r', 'x' * 30, '{"text": 2}']
  rng = random.Random(chunk)
  for _ in range(30):
    content = '\n'.join(rng.choices(lines, k=rng.randint(1, 12)))
    path = tmp_path / 'a.jsonl'
    path.write_text(content)
    monkeypatch.setattr(document_files, '_CHUNK_BYTES', chunk)
    options = document_files.ReadOptions(max_document_bytes=20)
    found = [
      (r.number, 'x' if isinstance(r.content, Exception) else r.content)
      for r in document_files.records(str(path), options)
    ]
    assert found == [
      (n, 'x' if 'xx' in line else line.encode())
      for n, line in enumerate(content.split('\n'), 1)
      if line.strip()
    ]
