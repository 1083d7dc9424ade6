"""TFDS sources: reading, and errors for missing datasets."""

import gin
import pytest
import seqio
import tensorflow_datasets as tfds
import tfds_folders

from fnet_t5x.tasks import tfds_source


@pytest.fixture(autouse=True)
def _own_data_dir(monkeypatch):
  monkeypatch.setattr(seqio.utils, '_TFDS_DATA_DIR_OVERRIDE', None)


@pytest.fixture
def data_dir(tmp_path):
  """A folder with c4/en in two versions, under --tfds_data_dir."""
  for version in ('3.0.1', '2.3.1'):
    tfds_folders.write(
      tmp_path,
      'c4',
      version,
      {'text': tfds.features.Text()},
      {
        'train': [{'text': f'{version} {i}'} for i in range(4)],
        'validation': [{'text': 'held out'}],
      },
      config='en',
    )
  seqio.set_tfds_data_dir_override(str(tmp_path))
  return tmp_path


def _texts(source, split='train', **kwargs):
  dataset = source.get_dataset(split, shuffle=False, **kwargs)
  return [e['text'].decode() for e in dataset.as_numpy_iterator()]


def test_it_reads_splits_slices_and_shards(data_dir):
  source = tfds_source.TfdsSource('c4/en:3.0.1')
  assert sorted(source.splits) == ['train', 'validation']
  assert source.num_input_examples('train') == 4
  assert len(source.list_shards('train')) == 1
  assert _texts(source) == [f'3.0.1 {i}' for i in range(4)]
  sliced = tfds_source.TfdsSource('c4/en:3.0.1', splits={'test': 'train[1:3]'})
  assert sliced.splits == ('test',)
  assert sliced.num_input_examples('test') == 2
  assert _texts(sliced, 'test') == ['3.0.1 1', '3.0.1 2']


def test_gin_chooses_the_version_when_it_is_read(data_dir):
  source = tfds_source.TfdsSource('c4/en:3.0.1')
  assert _texts(source)[0] == '3.0.1 0'
  gin.parse_config("tfds_options.versions = {'c4/en': '2.3.1'}")
  assert _texts(source)[0] == '2.3.1 0'
  gin.parse_config("tfds_options.versions = {'c4/en': '3.*.*'}")
  assert _texts(source)[0] == '3.0.1 0'


def test_it_follows_the_data_dir(data_dir, tmp_path_factory):
  source = tfds_source.TfdsSource('c4/en:3.0.1')
  assert len(_texts(source)) == 4
  other = tmp_path_factory.mktemp('other')
  tfds_folders.write(
    other,
    'c4',
    '3.0.1',
    {'text': tfds.features.Text()},
    {'train': [{'text': 'elsewhere'}]},
    config='en',
  )
  seqio.set_tfds_data_dir_override(str(other))
  assert _texts(source) == ['elsewhere']
  assert source.num_input_examples('train') == 1
  assert str(other) in source.list_shards('train')[0]


def test_nothing_is_read_or_downloaded_before_use(monkeypatch):
  monkeypatch.setattr(tfds, 'builder', None)
  source = tfds_source.TfdsSource('c4/en:3.1.0', splits=['train'])
  assert source.splits == ('train',)
  assert 'c4/en:3.1.0' in str(source)


@pytest.mark.parametrize('use', ['get_dataset', 'num_input_examples'])
def test_missing_version_lists_existing_ones(data_dir, use):
  source = tfds_source.TfdsSource('c4/en:3.1.0', splits=['train'])
  with pytest.raises(FileNotFoundError) as error:
    getattr(source, use)('train')
  message = str(error.value)
  assert message.startswith(f'{data_dir} ') and '\n' not in message
  assert 'version 2.3.1, 3.0.1, not 3.1.0: ' in message
  assert "tfds_options.versions = {'c4/en': '3.0.1'}" in message
  assert '--tfds_data_dir' in message
  # The remedy in the message works.
  gin.parse_config("tfds_options.versions = {'c4/en': '3.0.1'}")
  assert _texts(source)[0] == '3.0.1 0'


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('glue/cola:2.0.0', r'no TFDS dataset glue/cola:2.0.0 in \S+: set'),
    ('c4/de:3.1.0', r'no TFDS dataset c4/de:3.1.0 in \S+ \(c4 exists with'),
  ],
)
def test_missing_folder_names_the_remedy(data_dir, name, message):
  with pytest.raises(FileNotFoundError, match=message) as error:
    list(tfds_source.TfdsSource(name).splits)
  assert '--tfds_data_dir' in str(error.value)
  assert 'tfds_options.download' in str(error.value)
  assert '\n' not in str(error.value)


def test_missing_data_dir_is_named(tmp_path):
  seqio.set_tfds_data_dir_override(str(tmp_path / 'nowhere'))
  source = tfds_source.TfdsSource('c4/en:3.1.0', splits=['train'])
  with pytest.raises(FileNotFoundError, match=r'nowhere is not a folder\)'):
    source.get_dataset('train')


def test_missing_split_lists_the_splits(data_dir):
  source = tfds_source.TfdsSource('c4/en:3.0.1', splits=['train', 'test'])
  expected = "c4/en:3.0.1 has no split 'test'; it has train, validation"
  with pytest.raises(ValueError, match=expected):
    source.get_dataset('test')
  with pytest.raises(ValueError, match="no split 'dev'; it has train, test"):
    source.num_input_examples('dev')


def test_gin_permits_downloads(data_dir, monkeypatch):
  asked = []

  class Builder:
    def download_and_prepare(self):
      asked.append('download')
      raise ConnectionError('no network in tests')

  def builder(name, data_dir):
    asked.append((name, data_dir))
    return Builder()

  monkeypatch.setattr(tfds, 'builder', builder)
  source = tfds_source.TfdsSource('c4/en:3.1.0', splits=['train'])
  gin.parse_config('tfds_options.download = True')
  with pytest.raises(ConnectionError):
    source.get_dataset('train')
  assert asked == [('c4/en:3.1.0', str(data_dir)), 'download']


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (
      {'download': 'False'},
      "tfds_options.download is 'False'; it must be True",
    ),
    ({'download': 1}, 'tfds_options.download is 1; it must be True or False'),
    ({'download': None}, 'tfds_options.download is None; it must be True or'),
    ({'versions': '3.1.0'}, "tfds_options.versions is '3.1.0'; it must be a d"),
    ({'versions': ['3.1.0']}, r"versions is \['3.1.0'\]; it must be a dict"),
    ({'versions': {'c4/en': 3.1}}, r"versions\['c4/en'\] is 3.1; it must be"),
  ],
)
def test_options_of_another_type_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    tfds_source.tfds_options(**options)
