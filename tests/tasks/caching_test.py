"""SeqIO's caching job on Pile tasks, and training batches from its cache.

The job is SeqIO's own, in a process of its own, on Beam's local runner.
"""

import collections
import importlib.util
import json
import os
import pathlib
import random
import string
import subprocess
import sys

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf
import zstandard

from fnet_t5x.runtime import datasets
from fnet_t5x.tasks import catalog

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    importlib.util.find_spec('apache_beam') is None,
    reason="needs Apache Beam (pip install '.[cache]')",
  ),
]
_OBJECTIVES = ('span_corruption', 'prefix_lm')
_FILES = {
  'train/00.jsonl.zst': 17,
  'train/01.jsonl.zst': 9,
  'train/02.jsonl.zst': 14,
  'val.jsonl.zst': 5,
  'test.jsonl.zst': 4,
}


def _text(rng: random.Random) -> str:
  words = (
    ''.join(rng.choices(string.ascii_lowercase, k=rng.randint(1, 7)))
    for _ in range(rng.randint(5, 250))
  )
  return ' '.join(words)


@pytest.fixture(scope='module')
def pile(tmp_path_factory) -> tuple[pathlib.Path, dict[str, list[str]]]:
  """A small Pile in the original layout: its folder, and its texts by file."""
  folder = tmp_path_factory.mktemp('pile')
  rng = random.Random(0)
  texts = {n: [_text(rng) for _ in range(k)] for n, k in _FILES.items()}
  for name, documents in texts.items():
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    lines = (
      json.dumps({'text': text, 'meta': {'pile_set_name': 'Pile-CC'}}) + '\n'
      for text in documents
    )
    path.write_bytes(zstandard.compress(''.join(lines).encode()))
  return folder, texts


@pytest.fixture(scope='module')
def job_output(tmp_path_factory, pile, _small_model) -> pathlib.Path:
  """Output of the caching job for tasks on the small Pile."""
  folder = tmp_path_factory.mktemp('job')
  # The job does not read gin files: a module binds what it needs.
  (folder / 'bound_tasks.py').write_text(
    'import gin\n'
    'from fnet_t5x.tasks import catalog\n'
    "gin.bind_parameter('default_vocabulary.sentencepiece_model_file',"
    f' {str(_small_model)!r})\n'
  )
  path = [str(folder), *filter(None, sys.path)]
  job = subprocess.run(
    [
      sys.executable,
      '-m',
      'seqio.scripts.cache_tasks_main',
      f'--tasks=fnet_pile_({"|".join(_OBJECTIVES)})',
      '--module_import=bound_tasks',
      f'--output_cache_dir={folder / "cache"}',
      '--pipeline_options=--runner=DirectRunner',
      '--min_shards=2',
    ],
    env={
      **os.environ,
      'PYTHONPATH': os.pathsep.join(path),
      'FNET_T5X_PILE_DIR': str(pile[0]),
    },
    stderr=subprocess.PIPE,
    text=True,
  )
  assert job.returncode == 0, job.stderr[-3000:]
  return folder / 'cache'


@pytest.fixture
def cache(job_output, pile, small_vocabulary, monkeypatch) -> pathlib.Path:
  """The job's output, where tasks look for it."""
  monkeypatch.setenv('FNET_T5X_PILE_DIR', str(pile[0]))
  monkeypatch.setattr(
    seqio.utils, '_GLOBAL_CACHE_DIRECTORIES', [str(job_output)]
  )
  for objective in _OBJECTIVES:
    task = catalog.get(f'fnet_pile_{objective}')
    monkeypatch.setattr(task, '_cache_dir', None)
    monkeypatch.setattr(task, '_stats', {})
  return job_output


def _batches(task, shuffle=False, use_cached=False, num_epochs=2):
  cfg = datasets.DatasetConfig(
    task,
    {'inputs': 48, 'targets': 48},
    'train',
    batch_size=4,
    shuffle=shuffle,
    seed=5,
    use_cached=use_cached,
    pack=True,
  )
  return datasets.get_dataset(
    cfg, 0, 1, seqio.EncDecFeatureConverter, num_epochs
  )


def _documents(task, use_cached, shuffle=False) -> list[tuple[int, ...]]:
  """Returns the tokens of each training document, as passed to objectives."""
  source = task._get_cached_source('train') if use_cached else task.source
  dataset = source.get_dataset('train', shuffle=shuffle, seed=5)
  if not use_cached:
    dataset = task.preprocess_precache(dataset, seed=5)
  return [tuple(e['targets'].tolist()) for e in dataset.as_numpy_iterator()]


@pytest.mark.parametrize('objective', _OBJECTIVES)
def test_every_document_is_in_the_cache_once(
  cache, pile, small_vocabulary, objective
):
  folder = cache / f'fnet_pile_{objective}'
  for split, prefix in {
    'train': 'train/',
    'validation': 'val',
    'test': 'test',
  }.items():
    cached = collections.Counter()
    # Read as plain records, not by SeqIO.
    for path in folder.glob(f'{split}.tfrecord-*'):
      for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        features = tf.train.Example.FromString(record).features.feature
        assert list(features) == ['targets']
        cached[tuple(features['targets'].int64_list.value)] += 1
    expected = collections.Counter(
      tuple(small_vocabulary.encode(text))
      for name, texts in pile[1].items()
      if name.startswith(prefix)
      for text in texts
    )
    assert cached == expected
    assert set(cached.values()) == {1}


@pytest.mark.parametrize('shuffle', [False, True])
def test_cached_documents_equal_uncached_ones(cache, shuffle):
  task = catalog.get('fnet_pile_prefix_lm')
  cached = _documents(task, use_cached=True, shuffle=shuffle)
  uncached = _documents(task, use_cached=False, shuffle=shuffle)
  assert sorted(cached) == sorted(uncached)
  # The job shuffles: only the order differs.
  assert cached != uncached


@pytest.mark.parametrize('shuffle', [False, True])
@pytest.mark.parametrize('objective', _OBJECTIVES)
def test_batches_equal_those_from_text_in_the_same_order(
  cache, pile, small_vocabulary, objective, shuffle
):
  task = catalog.get(f'fnet_pile_{objective}')
  text_of = {
    tuple(small_vocabulary.encode(text)): text
    for texts in pile[1].values()
    for text in texts
  }
  texts = [text_of[d] for d in _documents(task, True, shuffle)]

  def in_that_order(split, shuffle_files, seed=None):
    return tf.data.Dataset.from_tensor_slices({'text': texts})

  uncached = task.replace(
    source=seqio.FunctionDataSource(in_that_order, splits=['train'])
  )
  expected = list(_batches(uncached, shuffle).as_numpy_iterator())
  actual = list(_batches(task, shuffle, True).as_numpy_iterator())
  assert len(actual) == len(expected) > 15
  for a, b in zip(actual, expected, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_examples_without_order_equal_those_from_text(cache):
  # A prefix and its continuation are a segment of one document, wherever the
  # random cut is.
  task = catalog.get('fnet_pile_prefix_lm')

  def segments(use_cached):
    dataset = task.get_dataset(
      {'inputs': 48, 'targets': 48}, 'train', use_cached=use_cached, seed=5
    )
    return sorted(
      (*e['inputs'][:-1].tolist(), *e['targets'][:-1].tolist())
      for e in dataset.as_numpy_iterator()
    )

  assert segments(True) == segments(False)


@pytest.mark.parametrize('objective', _OBJECTIVES)
def test_reading_the_cache_tokenizes_nothing(cache, monkeypatch, objective):
  def refuse(self, text):
    raise AssertionError('the tokenizer was called')

  monkeypatch.setattr(seqio.SentencePieceVocabulary, '_encode_tf', refuse)
  task = catalog.get(f'fnet_pile_{objective}')
  with pytest.raises(AssertionError, match='the tokenizer was called'):
    _batches(task)
  # Nor is there any text to read.
  monkeypatch.delenv('FNET_T5X_PILE_DIR')
  assert len(list(_batches(task, use_cached=True))) > 15


def test_position_in_the_cache_is_restored(cache, tmp_path):
  task = catalog.get('fnet_pile_span_corruption')

  def iterator():
    return datasets.DeviceIterator(
      _batches(task, shuffle=True, use_cached=True, num_epochs=None),
      jax.sharding.SingleDeviceSharding(jax.devices()[0]),
    )

  before = iterator()
  for _ in range(7):
    next(before)
  before.save(str(tmp_path / 'position'))
  expected = [next(before) for _ in range(40)]
  after = iterator()
  after.restore(str(tmp_path / 'position'))
  for batch in expected:
    restored = next(after)
    for name, value in batch.items():
      np.testing.assert_array_equal(restored[name], value, err_msg=name)
