"""Your own corpus, given by a glob."""

import document_corpora
import gin
import pytest

from fnet_t5x.tasks import text_files


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
  monkeypatch.delenv(text_files.VARIABLE, raising=False)


def _numbers(split):
  dataset = text_files.SOURCE.get_dataset(split, seed=0)
  return sorted(
    document_corpora.number_of(e['text']) for e in dataset.as_numpy_iterator()
  )


def test_validation_is_held_out_of_one_glob(tmp_path):
  for i in range(4):
    document_corpora.write(
      tmp_path / f'{i}.jsonl.gz', range(200 * i, 200 * i + 200)
    )
  gin.bind_parameter('text_files.corpus.train', f'{tmp_path}/*.jsonl.gz')
  gin.bind_parameter('text_files.corpus.held_out_share', 0.01)
  train, validation = _numbers('train'), _numbers('validation')
  assert sorted(train + validation) == list(range(800))
  assert 0 < len(validation) < 30
  gin.bind_parameter('text_files.corpus.held_out_share', 0.5)
  assert 320 < len(_numbers('validation')) < 480


def test_passages_are_held_out_of_one_document(tmp_path):
  lines = [f'line {number}' for number in range(4000)]
  (tmp_path / 'a.txt').write_text('\n'.join(lines))
  gin.bind_parameter('text_files.corpus.train', f'{tmp_path}/a.txt')
  examples = [
    list(text_files.SOURCE.get_dataset(split, seed=0).as_numpy_iterator())
    for split in ('train', 'validation')
  ]
  ids = [e['id'].decode() for split in examples for e in split]
  assert len(set(ids)) == len(ids)
  train, validation = (
    [line for e in split for line in e['text'].decode().splitlines()]
    for split in examples
  )
  assert sorted(train + validation) == sorted(lines)
  assert 0.05 < len(validation) / len(lines) < 0.1


def test_validation_of_its_own(tmp_path):
  for n in range(5):
    document_corpora.write(tmp_path / f'{n}.txt', [n])
  document_corpora.write(tmp_path / 'held_out.parquet', range(5, 9))
  gin.bind_parameter('text_files.corpus.train', f'{tmp_path}/*.txt')
  gin.bind_parameter('text_files.corpus.validation', f'{tmp_path}/*.parquet')
  assert _numbers('train') == [0, 1, 2, 3, 4]
  assert _numbers('validation') == [5, 6, 7, 8]


def test_glob_can_come_from_the_environment(tmp_path, monkeypatch):
  document_corpora.write(tmp_path / 'a.txt', [1])
  monkeypatch.setenv(text_files.VARIABLE, f'{tmp_path}/*.txt')
  assert text_files.SOURCE.list_shards('train') == [str(tmp_path / 'a.txt')]


@pytest.mark.parametrize(
  ('train', 'share', 'message'),
  [
    (None, 0.01, r'fnet_text_\* is not set: set TEXT_FILES to a glob'),
    ('{dir}/*.none', 0.01, r'TEXT_FILES: no file matches .*none; set TEXT_FI'),
    ('{dir}/a.txt', 1.0, r'HELD_OUT_SHARE is 1.0; it must be between'),
  ],
)
def test_bad_corpus_is_an_error(tmp_path, train, share, message):
  with pytest.raises((FileNotFoundError, ValueError), match=message):
    text_files.corpus(
      'train',
      train=train and train.format(dir=tmp_path),
      held_out_share=share,
    )
