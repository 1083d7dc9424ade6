"""Source of documents in files: none lost, none repeated, resumable."""

import collections
import itertools
import os

import document_corpora
import gin
import pytest
import seqio
import tensorflow as tf
from clu.data import dataset_iterator

from fnet_t5x import command_line, data_counters
from fnet_t5x.tasks import document_files, document_source, vocabularies

_FORMATS = ('jsonl', 'jsonl.gz', 'jsonl.zst', 'parquet')


@pytest.fixture(autouse=True)
def _no_counts():
  data_counters.reset()
  yield
  data_counters.reset()


@pytest.fixture
def small_blocks(monkeypatch):
  """Makes blocks small, so that files have several."""
  monkeypatch.setattr(document_source, '_BLOCK_BYTES', 500)


def _corpus(tmp_path, files=3, documents=40):
  """Files of all formats; document n is in one of them."""
  suffixes = itertools.cycle(_FORMATS)
  return [
    str(
      document_corpora.write(
        tmp_path / f'{i:02}.{next(suffixes)}',
        range(i * documents, (i + 1) * documents),
      )
    )
    for i in range(files)
  ]


def _source(paths, part=document_source.WHOLE):
  return document_source.DocumentFileSource(
    lambda split: paths, part=lambda split: part
  )


def _numbers(dataset):
  return [
    document_corpora.number_of(e['text']) for e in dataset.as_numpy_iterator()
  ]


@pytest.mark.parametrize('shuffle', [False, True])
@pytest.mark.parametrize('hosts', [1, 2, 3])
def test_documents_out_are_those_in(tmp_path, small_blocks, hosts, shuffle):
  source = _source(_corpus(tmp_path))
  seen = collections.Counter(
    itertools.chain.from_iterable(
      _numbers(
        source.get_dataset(
          'train', shuffle, seed=1, shard_info=seqio.ShardInfo(host, hosts)
        )
      )
      for host in range(hosts)
    )
  )
  assert seen == collections.Counter(range(120))


def test_task_gives_every_document_to_one_of_two_hosts(tmp_path, small_blocks):
  # Through SeqIO, including when there are fewer files than hosts.
  for files, hosts in ((3, 2), (1, 2)):
    task = seqio.Task(
      f'documents_{files}',
      source=_source(_corpus(tmp_path / str(files), files)),
      preprocessors=[],
      output_features={
        'text': seqio.Feature(
          seqio.PassThroughVocabulary(1), dtype=tf.string, rank=0
        )
      },
    )
    seen = [
      n
      for host in range(hosts)
      for n in _numbers(
        task.get_dataset(
          None, 'train', seed=2, shard_info=seqio.ShardInfo(host, hosts)
        )
      )
    ]
    assert sorted(seen) == list(range(files * 40))


def test_seeds_decide_the_order(tmp_path, small_blocks):
  source = _source(_corpus(tmp_path, files=5))

  def order(seed):
    return _numbers(source.get_dataset('train', seed=seed))

  assert order(1) == order(1)
  assert order(1) != order(2)
  assert order(1) != sorted(order(1))


def test_resumed_in_the_middle_of_an_epoch(tmp_path, small_blocks):
  source = _source(_corpus(tmp_path, files=5))

  def iterator():
    dataset = source.get_dataset('train', seed=3).repeat(3)
    return dataset_iterator.TfDatasetIterator(
      dataset.shuffle(50, seed=4).batch(10), checkpoint=True
    )

  def take(it, count):
    batches = (next(it)['text'] for _ in range(count))
    return [document_corpora.number_of(t) for b in batches for t in b]

  it = iterator()
  # The middle of the second of three epochs of 200.
  seen = take(it, 31)
  it.save(str(tmp_path / 'position'))
  rest = take(it, 29)
  again = iterator()
  again.restore(str(tmp_path / 'position'))
  # Files left open must not matter.
  document_source._READERS.__init__()
  assert take(again, 29) == rest
  assert collections.Counter(seen + rest) == collections.Counter(
    dict.fromkeys(range(200), 3)
  )


def test_two_iterators_of_a_file_do_not_disturb_each_other(
  tmp_path, small_blocks
):
  dataset = _source(_corpus(tmp_path, files=1)).get_dataset('train', False)
  pairs = zip(
    dataset.as_numpy_iterator(), dataset.as_numpy_iterator(), strict=True
  )
  assert all(a == b for a, b in pairs)


def test_held_out_part_and_rest_are_the_whole(tmp_path):
  paths = _corpus(tmp_path, files=4, documents=500)
  rest, held_out = (
    _numbers(
      _source(paths, document_source.Part(0.1, held_out)).get_dataset(
        'train', False
      )
    )
    for held_out in (False, True)
  )
  assert sorted(rest + held_out) == list(range(2000))
  # 2,000 draws of 0.1: 5 standard deviations.
  assert abs(len(held_out) - 200) < 5 * (2000 * 0.1 * 0.9) ** 0.5


def _bad_corpus(tmp_path):
  lines = document_corpora.json_lines(range(20)).splitlines(keepends=True)
  lines.insert(7, b'{"text": \n')
  lines.insert(13, b'{"text": null}\n')
  (tmp_path / 'a.jsonl').write_bytes(b''.join(lines))
  path = document_corpora.write(tmp_path / 'b.jsonl.zst', range(20, 40))
  path.write_bytes(path.read_bytes()[:-3])
  return [str(tmp_path / 'a.jsonl'), str(path)]


def test_bad_document_stops_in_one_line(tmp_path):
  dataset = _source(_bad_corpus(tmp_path)).get_dataset('train', False)
  with pytest.raises(tf.errors.OpError) as error:
    _numbers(dataset)
  line = command_line.one_line(error.value)
  assert line.startswith(f'{tmp_path}/a.jsonl, line 8: not JSON')
  assert 'SKIP_BAD_DOCUMENTS = True' in line


def test_bad_documents_are_skipped_and_counted(tmp_path, caplog):
  gin.bind_parameter('ReadOptions.skip_bad_documents', True)
  seen = _numbers(_source(_bad_corpus(tmp_path)).get_dataset('train', False))
  # A damaged zstd frame is lost completely: it is checked before any output.
  assert set(seen) == {*range(20), *(n for n in seen if n >= 20)}
  assert len(seen) == len(set(seen))
  assert data_counters.counts() == {'skipped_documents': 3}
  for where in ('a.jsonl, line 8', 'a.jsonl, line 14', 'b.jsonl.zst: trunc'):
    assert where in caplog.text


def test_no_file_is_an_error(tmp_path):
  with pytest.raises(
    FileNotFoundError, match=r'corpus: no file matches .*/\*\.x or .*; set it'
  ):
    document_source.matching_files(
      [f'{tmp_path}/*.x', f'{tmp_path}/*.y'], 'corpus', 'set it'
    )


def _files_of_all(*patterns):
  return document_source.files_of_all(patterns, 'corpus', 'set it')


def test_files_of_all_patterns(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  for name in ('a.txt', 'b.txt', 'c.json', 'd[1].txt', 'd1.txt', 'e*.txt'):
    (tmp_path / name).touch()

  def names(*patterns):
    return [os.path.relpath(p, tmp_path) for p in _files_of_all(*patterns)]

  assert names(f'{tmp_path}/[ab].txt', '~/*.json') == [
    'a.txt',
    'b.txt',
    'c.json',
  ]
  # A name that exists is that file, not a glob; nor does it hide others.
  assert names('~/d[1].txt') == ['d[1].txt']
  assert names('~/e*.txt', '~/d?.txt') == ['d1.txt', 'e*.txt']


def test_a_file_named_twice_counts_once(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'a.txt').touch()
  once = _files_of_all('a.txt', './a.txt', '*.txt', f'{tmp_path}/a.txt')
  assert once == ['a.txt']


def test_pattern_without_a_file_is_named(tmp_path):
  (tmp_path / 'a.txt').touch()
  with pytest.raises(
    FileNotFoundError, match=r'^corpus: no file matches \S*/\*\.x; set it$'
  ):
    _files_of_all(f'{tmp_path}/*.txt', f'{tmp_path}/*.x')
  with pytest.raises(FileNotFoundError, match='corpus: no file is named; set'):
    _files_of_all()


def test_unknown_format_is_an_error(tmp_path):
  with pytest.raises(
    document_files.DocumentError, match='unknown document format'
  ):
    _source([str(tmp_path / 'a.csv')]).get_dataset('train')


def test_names_that_are_not_utf8_are_errors(tmp_path):
  (tmp_path / 'a.jsonl').touch()
  name = os.fsencode(tmp_path) + b'/caf\xe9.jsonl'
  with open(name, 'wb'):
    pass
  for pattern in (f'{tmp_path}/*.jsonl', os.fsdecode(name)):
    with pytest.raises(
      FileNotFoundError,
      match=r'^corpus: the name .*/caf\\xe9\.jsonl is not UTF-8; rename it',
    ):
      _files_of_all(pattern)
    with pytest.raises(
      FileNotFoundError, match=r'caf\\xe9\.jsonl is not UTF-8;'
    ):
      document_source.matching_files(pattern, 'corpus', 'set it')


@pytest.mark.parametrize('skip', [False, True])
def test_bad_documents_never_crash_tensorflow(tmp_path, skip, caplog):
  """Every kind of bad line and file is skipped, or named in one line."""
  lines = [
    b'{"text": "d1", "n": ' + b'9' * 5000 + b'}',
    b'{"a": ' * 99_999,
    b'{"text": "\\ud800"}',
    b'{"\\ud800": "d1"}',
    b'\xff\xfe',
  ]
  for number, line in enumerate(lines):
    path = tmp_path / f'{number}.jsonl'
    path.write_bytes(line + b'\n{"text": "d7", "meta": {"x": "\\ud800"}}\n')
  (tmp_path / '5.jsonl').mkdir()
  os.mkfifo(tmp_path / '6.jsonl')
  gin.bind_parameter('ReadOptions.skip_bad_documents', skip)
  if skip:
    paths = sorted(map(str, tmp_path.iterdir()))
    dataset = _source(paths).get_dataset('train', False)
    # The last file begins like UTF-16: all of it is skipped.
    assert _numbers(dataset) == [7] * 4
    assert data_counters.counts() == {'skipped_documents': 7}
    return
  for path in tmp_path.iterdir():
    with pytest.raises(tf.errors.OpError) as error:
      _numbers(_source([str(path)]).get_dataset('train', False))
    assert command_line.one_line(error.value).startswith(str(path))


_SENTINELS = {
  'a <extra_id_0> b': True,
  'a\n<extra_id_99>': True,
  '<extra_id_5>': True,
  'a <EXTRA_ID_0>': False,
  'a <extra_id_>': False,
  'a <extra id 0>': False,
  'no sign of one': False,
}


@pytest.mark.parametrize(('text', 'counted'), _SENTINELS.items())
def test_text_that_spells_a_sentinel_is_counted(
  tmp_path, text, counted, caplog
):
  path = tmp_path / 'a.txt'
  path.write_text(text)
  list(_source([str(path)]).get_dataset('train').as_numpy_iterator())
  vocabulary = vocabularies.default_vocabulary()
  first = vocabulary.vocab_size - vocabulary.extra_ids
  # Counted if and only if the vocabulary encodes it as one.
  assert any(i >= first for i in vocabulary.encode_tf(text).numpy()) == counted
  assert data_counters.counts() == (
    {'documents_with_sentinels': 1} if counted else {}
  )
  assert ('a.txt, document a.txt: its text holds' in caplog.text) == counted
