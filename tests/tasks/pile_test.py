"""The Pile: files, re-uploads, components, TFDS."""

import collections
import itertools
import math
import os
import subprocess
import sys

import document_corpora
import gin
import pytest
import seqio
import tensorflow_datasets as tfds

from fnet_t5x.tasks import catalog, pile, pile_builder


@pytest.fixture
def pile_dir(tmp_path):
  """A small Pile in the published layout, bound in gin."""
  for i in range(3):
    document_corpora.write(
      tmp_path / 'pile' / 'train' / f'{i:02}.jsonl.zst',
      range(30 * i, 30 * i + 30),
    )
  document_corpora.write(tmp_path / 'pile' / 'val.jsonl.zst', range(90, 99))
  document_corpora.write(tmp_path / 'pile' / 'test.jsonl.zst', range(99, 105))
  gin.bind_parameter('pile.files.data_dir', str(tmp_path / 'pile'))
  return tmp_path / 'pile'


def _counts(source, split='train'):
  """Returns how often each document occurs."""
  return collections.Counter(
    document_corpora.number_of(e['text'])
    for e in source.get_dataset(split, seed=1).as_numpy_iterator()
  )


def _source():
  return pile.ComponentSource(pile.FILE_SOURCE)


def test_files_are_read_directly(pile_dir):
  assert len(_source().list_shards('train')) == 3
  assert _counts(_source()) == collections.Counter(range(90))
  assert _counts(_source(), 'validation') == collections.Counter(range(90, 99))
  assert _counts(_source(), 'test') == collections.Counter(range(99, 105))


@pytest.mark.parametrize('name', ['train/0.parquet', 'data/train-0.parquet'])
def test_re_uploads_as_parquet(tmp_path, name):
  document_corpora.write(tmp_path / name, range(50))
  gin.bind_parameter('pile.files.data_dir', str(tmp_path))
  assert _counts(_source()) == collections.Counter(range(50))
  gin.bind_parameter('pile.component_weights.components', ['ArXiv'])
  assert _counts(_source()) == collections.Counter(range(0, 50, 3))


def test_selected_components(pile_dir):
  gin.bind_parameter('pile.component_weights.components', ['FreeLaw'])
  assert _counts(_source()) == collections.Counter(range(1, 90, 3))


def test_weights(tmp_path):
  numbers = range(3000)
  document_corpora.write(tmp_path / 'train' / '0.jsonl', numbers)
  gin.bind_parameter('pile.files.data_dir', str(tmp_path))
  gin.bind_parameter('pile.files.patterns', {'train': 'train/*.jsonl'})
  gin.bind_parameter(
    'pile.component_weights.weights', {'ArXiv': 2.5, 'FreeLaw': 0.0}
  )
  counts = _counts(_source())
  arxiv = [counts[n] for n in numbers if n % 3 == 0]
  assert set(arxiv) == {2, 3}
  # 1,000 draws with probability 0.5: 5 standard deviations.
  assert abs(sum(arxiv) - 2500) < 5 * (1000 * 0.25) ** 0.5
  assert not any(counts[n] for n in numbers if n % 3 == 1)
  assert all(counts[n] == 1 for n in numbers if n % 3 == 2)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'components': ['Arxiv']}, r"no component 'Arxiv' .*use one of ArXiv"),
    ({'weights': {'Books': 1}}, r"no component 'Books' .*use one .*Books3"),
    ({'weights': {'ArXiv': -1}}, r"PILE_WEIGHTS\['ArXiv'\] is -1; it must"),
    ({'weights': {'ArXiv': math.nan}}, r"PILE_WEIGHTS\['ArXiv'\] is nan; it"),
    ({'weights': {'ArXiv': math.inf}}, r"PILE_WEIGHTS\['ArXiv'\] is inf; it"),
    ({'weights': {'ArXiv': -math.inf}}, r'is -inf; it must be a number from 0'),
    ({'weights': {'ArXiv': 1e300}}, r'is 1e\+300; it must be .* to 1,000,000'),
    ({'weights': {'ArXiv': '2'}}, r"is '2'; it must be a number from 0 to 1,"),
    ({'weights': {'ArXiv': True}}, r'is True; it must be a number from 0 to'),
    ({'weights': {'ArXiv': None}}, r'is None; it must be a number from 0 to'),
    (
      {'weights': 2.0},
      r'PILE_WEIGHTS is 2\.0; it must be .* weights by component',
    ),
    ({'weights': ['ArXiv']}, r"PILE_WEIGHTS is \['ArXiv'\]; it must be a d"),
    ({'components': 'ArXiv'}, r"PILE_COMPONENTS is 'ArXiv'; it must be a list"),
    (
      {'components': ['ArXiv'], 'weights': {'ArXiv': 0}},
      'PILE_WEIGHTS leaves no document: raise the weight',
    ),
  ],
)
def test_bad_components_are_errors(arguments, message):
  with pytest.raises(ValueError, match=message):
    pile.component_weights(**arguments)


def test_missing_files_are_errors(tmp_path, monkeypatch):
  monkeypatch.delenv(pile.VARIABLE, raising=False)
  with pytest.raises(FileNotFoundError, match='set PILE_DIR'):
    pile.files('train')
  monkeypatch.setenv(pile.VARIABLE, str(tmp_path))
  with pytest.raises(FileNotFoundError, match=r"split 'train': no file .*PILE"):
    pile.files('train')


@pytest.mark.parametrize(
  'patterns', ['train/*', {'valid': 'val.jsonl'}, ['train/*']]
)
def test_patterns_are_by_split(tmp_path, patterns):
  with pytest.raises(
    ValueError, match=r'PILE_FILES is .*; it must be .* by split'
  ):
    pile.files('train', str(tmp_path), patterns)


def test_held_out_loss_has_one_task_per_component(pile_dir):
  names = [n for n in catalog.CATALOG if n.startswith('fnet_pile_held_out_')]
  assert len(names) == len(pile.COMPONENTS) == 22
  assert 'fnet_pile_held_out_gutenberg_pg_19' in names
  task = catalog.get('fnet_pile_held_out_arxiv')
  examples = task.get_dataset(
    {'inputs': 64, 'targets': 64}, 'validation', shuffle=False
  )
  sizes = [e['text_bytes'] for e in examples.as_numpy_iterator()]
  texts = [document_corpora.text(n) for n in range(90, 99, 3)]
  assert sum(sizes) == sum(len(t.encode()) for t in texts)


def test_tfds_dataset_of_the_files(pile_dir, tmp_path):
  data_dir = tmp_path / 'tfds'
  builder = pile_builder.FnetPile(data_dir=data_dir)
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(manual_dir=pile_dir)
  )
  seqio.set_tfds_data_dir_override(str(data_dir))
  try:
    source = pile.ComponentSource(pile.TFDS_SOURCE)
    for split, numbers in (
      ('train', range(90)),
      ('validation', range(90, 99)),
      ('test', range(99, 105)),
    ):
      assert _counts(source, split) == collections.Counter(numbers)
    gin.bind_parameter('pile.component_weights.components', ['Github'])
    assert _counts(source) == collections.Counter(range(2, 90, 3))
  finally:
    seqio.set_tfds_data_dir_override(None)


def _build(tmp_path, *bindings):
  """Builds a dataset of three documents and a bad one."""
  path = tmp_path / 'pile' / 'train' / '00.jsonl'
  path.parent.mkdir(parents=True)
  path.write_bytes(document_corpora.json_lines(range(3)) + b'{\n')
  return subprocess.run(
    [
      *(sys.executable, '-m', 'fnet_t5x.tasks.pile_builder'),
      f'--manual_dir={path.parents[1]}',
      f'--data_dir={tmp_path}/tfds',
      '--gin_file=gin/sources/pile.gin',
      "--gin.PILE_FILES={'train': 'train/*.jsonl'}",
      *bindings,
    ],
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.slow
def test_bad_document_stops_the_builder_in_one_line(tmp_path):
  result = _build(tmp_path)
  assert result.returncode == 1
  assert '00.jsonl, line 4: not JSON' in result.stderr
  assert not list(tmp_path.glob('tfds/fnet_pile/1.0.0'))


@pytest.mark.slow
def test_builder_skips_bad_documents_if_told_to(tmp_path):
  result = _build(tmp_path, '--gin.SKIP_BAD_DOCUMENTS=True')
  assert result.returncode == 0
  assert '3 train documents in' in result.stdout
  assert 'skipped documents, named above: 1' in result.stdout
  assert '00.jsonl, line 4: not JSON' in result.stderr


def test_layouts_have_every_split():
  patterns = itertools.chain.from_iterable(pile._LAYOUTS.values())
  assert set(pile._LAYOUTS) == set(pile.SPLITS)
  assert all('*' in p or p.endswith('.jsonl.zst') for p in patterns)
