"""TFDS folders of the tests, read back by TFDS and by SeqIO."""

import numpy as np
import seqio
import tensorflow_datasets as tfds
import tfds_folders

_C4 = ('content-length', 'content-type', 'text', 'timestamp', 'url')


def _pages(count):
  return [{key: f'{key} ☃ {i}' for key in _C4} for i in range(count)]


def _strings(dataset):
  return [
    {key: value.decode() for key, value in example.items()}
    for example in dataset.as_numpy_iterator()
  ]


def test_seqio_reads_what_was_written_in_all_shards(tmp_path):
  folder = tfds_folders.write(
    tmp_path,
    'c4',
    '3.1.0',
    {key: tfds.features.Text() for key in _C4},
    {'train': _pages(7), 'validation': _pages(2)},
    config='en',
    num_shards=3,
  )
  assert folder == tmp_path / 'c4' / 'en' / '3.1.0'
  source = seqio.TfdsDataSource('c4/en:3.1.0', tfds_data_dir=str(tmp_path))
  assert set(source.splits) == {'train', 'validation'}
  assert source.num_input_examples('train') == 7
  assert len(source.list_shards('train')) == 3
  assert len(source.list_shards('validation')) == 2
  whole = source.get_dataset('train', shuffle=False)
  assert _strings(whole) == _pages(7)
  parts = [
    _strings(
      source.get_dataset(
        'train', shuffle=False, shard_info=seqio.ShardInfo(i, 3)
      )
    )
    for i in range(3)
  ]
  assert [len(part) for part in parts] == [2, 3, 2]
  together = [example for part in parts for example in part]
  assert sorted(together, key=str) == sorted(_pages(7), key=str)


def test_tfds_reads_nested_features_and_labels(tmp_path):
  features = {
    'label': tfds.features.ClassLabel(names=['no', 'yes']),
    'answers': tfds.features.Sequence(
      {'text': tfds.features.Text(), 'start': np.int32}
    ),
    'score': np.float32,
  }
  examples = [
    {
      'label': 'yes',
      'answers': [{'text': 'ä', 'start': 1}, {'text': 'b', 'start': 2}],
      'score': 1.5,
    },
    {'label': -1, 'answers': [], 'score': 0.0},
  ]
  tfds_folders.write(tmp_path, 'made_up', '1.2.3', features, {'a': examples})
  dataset, info = tfds.load(
    'made_up:1.2.3', data_dir=tmp_path, split='a', with_info=True
  )
  assert info.features['label'].names == ['no', 'yes']
  first, second = dataset.as_numpy_iterator()
  assert (first['label'], second['label']) == (1, -1)
  assert first['answers']['text'].tolist() == ['ä'.encode(), b'b']
  assert first['answers']['start'].tolist() == [1, 2]
  assert second['answers']['text'].size == 0
  assert (first['score'], second['score']) == (1.5, 0.0)
