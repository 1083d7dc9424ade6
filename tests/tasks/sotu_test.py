"""The registered tasks: examples, shards, seeds, and resuming."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import seqio
from clu.data import dataset_iterator

from fnet_t5x.tasks import catalog, corpus, sotu

_TASKS = ['fnet_sotu_prefix_lm', 'fnet_sotu_span_corruption']


def _batches(
  name: str, num_epochs: int | None = None
) -> dataset_iterator.TfDatasetIterator:
  """Returns training batches, as the engines request them."""
  dataset = seqio.get_dataset(
    name,
    {'inputs': 64, 'targets': 64},
    seqio.EncDecFeatureConverter(pack=name.endswith('span_corruption')),
    dataset_split='train',
    shuffle=True,
    num_epochs=num_epochs,
    seed=7,
    shard_info=seqio.ShardInfo(0, 1),
    batch_size=8,
  )
  return dataset_iterator.TfDatasetIterator(dataset, checkpoint=True)


def _taken(iterator, count: int) -> list:
  return [
    {k: v.tolist() for k, v in next(iterator).items()} for _ in range(count)
  ]


@pytest.mark.slow
@pytest.mark.parametrize('name', _TASKS)
@pytest.mark.parametrize('split', corpus.SPLITS)
def test_examples_of_the_shipped_corpus(name, split):
  lengths = catalog.CATALOG[name].feature_lengths
  task = catalog.get(name)
  dataset = task.get_dataset(lengths, split, shuffle=False, seed=0)
  examples = list(dataset.take(300).as_numpy_iterator())
  assert len(examples) > 150
  for example in examples:
    for feature, length in lengths.items():
      ids = example[feature]
      assert ids.dtype == np.int32
      assert len(ids) <= length
      assert ids[-1] == 1
      assert not np.isin(ids[:-1], [0, 1]).any()
      assert ids.max() < 8100


def test_validation_covers_all_text(small_corpus):
  task = catalog.get('fnet_sotu_prefix_lm')
  lengths = {'inputs': 40, 'targets': 40}
  dataset = task.get_dataset(lengths, 'validation', shuffle=False, seed=0)
  ids = [
    np.concatenate([e['inputs'][:-1], e['targets'][:-1]])
    for e in dataset.as_numpy_iterator()
  ]
  vocabulary = task.output_features['targets'].vocabulary
  expected = [
    vocabulary.encode(text) for _, text in corpus.documents('validation')
  ]
  assert np.concatenate(ids).tolist() == np.concatenate(expected).tolist()


def test_every_address_occurs_once_in_all_shards():
  source = sotu.AddressDataSource()
  for split in corpus.SPLITS:
    expected = dict(corpus.documents(split))
    for shards in (1, 3):
      seen = [
        example
        for index in range(shards)
        for example in source.get_dataset(
          split, seed=1, shard_info=seqio.ShardInfo(index, shards)
        ).as_numpy_iterator()
      ]
      assert len(seen) == len(expected)
      assert {e['id'].decode(): e['text'].decode() for e in seen} == expected


@pytest.mark.slow
def test_seeds_determine_the_order(small_corpus):
  task = catalog.get('fnet_sotu_prefix_lm')

  def examples(seed):
    dataset = task.get_dataset({'inputs': 64, 'targets': 64}, seed=seed)
    return [e['inputs'].tolist() for e in dataset.as_numpy_iterator()]

  first = examples(1)
  assert examples(1) == first
  other = examples(2)
  assert other != first
  assert len(other) == len(first)


def test_nothing_is_cached_in_memory():
  # A tf.data cache would be part of every saved iterator.
  assert catalog.get('fnet_sotu_prefix_lm').num_input_examples('train') is None


@pytest.mark.slow
def test_a_saved_iterator_resumes_in_another_process(small_corpus, tmp_path):
  expected = {}
  for name in _TASKS:
    iterator = _batches(name)
    # Into the second epoch.
    assert 20 < len(list(_batches(name, num_epochs=1))) < 150
    _taken(iterator, 150)
    iterator.save(str(tmp_path / name))
    expected[name] = _taken(iterator, 40)
  assert all(
    b != batches[0] for batches in expected.values() for b in batches[1:]
  )

  program = f"""
import json, gin, sotu_test
gin.bind_parameter('default_vocabulary.vocab_size', 160)
result = {{}}
for name in {_TASKS!r}:
  iterator = sotu_test._batches(name)
  iterator.restore({str(tmp_path)!r} + '/' + name)
  result[name] = sotu_test._taken(iterator, 40)
print(json.dumps(result))
"""
  here = pathlib.Path(__file__).parent
  path = [str(small_corpus.parents[2]), str(here), *filter(None, sys.path)]
  process = subprocess.run(
    [sys.executable, '-c', program],
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(path)},
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  assert json.loads(process.stdout) == expected


def test_evaluator_reports_the_loss_per_target_token(small_corpus):
  task = catalog.get('fnet_sotu_prefix_lm')
  lengths = {'inputs': 64, 'targets': 64}
  evaluator = seqio.Evaluator(
    'fnet_sotu_prefix_lm',
    feature_converter=seqio.EncDecFeatureConverter(pack=False),
    eval_split='validation',
    sequence_length=lengths,
    seed=0,
  )

  def score(dataset, model_feature_lengths=None):
    # A model that gives each target token the probability exp(-1.5), and EOS
    # exp(-0.5).
    del model_feature_lengths
    return [
      (i, -1.5 * np.sum(e['decoder_target_tokens'] > 1) - 0.5)
      for i, e in dataset.as_numpy_iterator()
    ]

  metrics, _ = evaluator.evaluate(
    compute_metrics=True, step=0, predict_fn=None, score_fn=score
  )
  result = metrics.result() if hasattr(metrics, 'result') else metrics
  sizes = [
    len(e['targets'])
    for e in task.get_dataset(
      lengths, 'validation', shuffle=False, seed=0
    ).as_numpy_iterator()
  ]
  loss = sum(1.5 * (n - 1) + 0.5 for n in sizes) / sum(sizes)
  values = result['fnet_sotu_prefix_lm']
  assert values['loss'] == pytest.approx(loss, rel=1e-6)
  assert values['perplexity'] == pytest.approx(np.exp(loss), rel=1e-6)
