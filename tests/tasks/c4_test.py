"""C4 in TFDS's format, and as AllenAI's JSON Lines."""

import gzip
import json
import pathlib

import gin
import numpy as np
import pytest
import seqio
import tensorflow_datasets as tfds
import tfds_folders

from fnet_t5x.tasks import c4, catalog, corpus, vocabularies

_LENGTHS = {'inputs': 64, 'targets': 64}
# Real documents of C4, if this checkout has some next to it.
_SAMPLE = pathlib.Path(__file__).parents[3] / 'shared' / 'data' / 'c4'


@pytest.fixture(autouse=True)
def _own_data_dir():
  yield
  seqio.set_tfds_data_dir_override(None)


def _texts(count):
  """Paragraphs of real text."""
  texts = (text for _, text in corpus.documents('validation'))
  paragraphs = (p for text in texts for p in text.split('\n\n') if len(p) > 200)
  return [next(paragraphs) for _ in range(count)]


def _write_tfds(tmp_path, texts, version='3.1.0'):
  def examples(part):
    return [
      {
        'text': text,
        'url': f'http://{i}',
        'timestamp': '2019-04-25T12:57:54Z',
        'content-type': 'text/html',
        'content-length': str(len(text)),
      }
      for i, text in enumerate(part)
    ]

  tfds_folders.write(
    tmp_path,
    'c4',
    version,
    {
      name: tfds.features.Text()
      for name in ('text', 'url', 'timestamp', 'content-type', 'content-length')
    },
    {'train': examples(texts[:-5]), 'validation': examples(texts[-5:])},
    config='en',
    num_shards=3,
  )
  seqio.set_tfds_data_dir_override(str(tmp_path))


def _prefix_lm_tokens(task_name, split):
  """Returns all tokens of a task's examples, without EOS."""
  dataset = catalog.get(task_name).get_dataset(
    _LENGTHS, split, shuffle=False, seed=0
  )
  return [
    token
    for e in dataset.as_numpy_iterator()
    for token in np.concatenate([e['inputs'][:-1], e['targets'][:-1]])
  ]


def test_offline_c4_through_tfds(tmp_path):
  texts = _texts(25)
  _write_tfds(tmp_path, texts)
  assert isinstance(c4.TFDS_SOURCE, seqio.TfdsDataSource)
  assert len(c4.TFDS_SOURCE.list_shards('train')) == 3
  encode = vocabularies.default_vocabulary().encode
  for split, part in (('train', texts[:-5]), ('validation', texts[-5:])):
    tokens = _prefix_lm_tokens('fnet_c4_prefix_lm', split)
    # Shards are interleaved.
    assert sorted(tokens) == sorted(t for text in part for t in encode(text))


def test_another_version_is_named_and_settable(tmp_path):
  _write_tfds(tmp_path, _texts(10), version='3.0.1')
  with pytest.raises(FileNotFoundError, match=r'in version 3\.0\.1, not 3\.1'):
    _prefix_lm_tokens('fnet_c4_prefix_lm', 'train')
  gin.bind_parameter('tfds_options.versions', {'c4/en': '3.0.1'})
  assert _prefix_lm_tokens('fnet_c4_prefix_lm', 'train')


def test_missing_split_is_an_error(tmp_path):
  _write_tfds(tmp_path, _texts(10))
  with pytest.raises(ValueError, match=r"no split 'test'; .*train, validation"):
    c4.TFDS_SOURCE.get_dataset('test')


def test_json_lines_of_allenai(tmp_path):
  texts = _texts(9)
  for i in range(3):
    rows = (
      json.dumps({'text': t, 'timestamp': '', 'url': ''})
      for t in texts[3 * i : 3 * i + 3]
    )
    name = tmp_path / f'c4-train.{i:05}-of-00003.json.gz'
    name.write_bytes(gzip.compress('\n'.join(rows).encode()))
  gin.bind_parameter('c4.json_files.data_dir', str(tmp_path))
  assert len(c4.JSON_SOURCE.list_shards('train')) == 3
  encode = vocabularies.default_vocabulary().encode
  tokens = _prefix_lm_tokens('fnet_c4_json_prefix_lm', 'train')
  assert sorted(tokens) == sorted(t for text in texts for t in encode(text))
  with pytest.raises(FileNotFoundError, match=r"C4, split 'validation': no fi"):
    c4.JSON_SOURCE.get_dataset('validation')


def test_folder_can_come_from_the_environment(tmp_path, monkeypatch):
  with pytest.raises(FileNotFoundError, match='set C4_DIR'):
    c4.json_files('train')
  monkeypatch.setenv(c4.VARIABLE, str(tmp_path))
  (tmp_path / 'c4-train.0.json.gz').write_bytes(gzip.compress(b''))
  assert c4.json_files('train') == [str(tmp_path / 'c4-train.0.json.gz')]


@pytest.mark.skipif(not _SAMPLE.is_dir(), reason='needs a sample of real C4')
def test_real_documents_of_c4():
  gin.bind_parameter('c4.json_files.data_dir', str(_SAMPLE))
  gin.bind_parameter('c4.json_files.patterns', {'train': '*.json.gz'})
  documents = list(
    c4.JSON_SOURCE.get_dataset('train', shuffle=False).as_numpy_iterator()
  )
  assert len(documents) == 30
  assert len({d['id'] for d in documents}) == 30
  assert _prefix_lm_tokens('fnet_c4_json_prefix_lm', 'train')
