"""Every objective as a task: examples, batches, resuming."""

import functools
import itertools

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf
import token_documents
from checkout import ROOT
from clu.data import dataset_iterator

from fnet_t5x import gin_macros
from fnet_t5x.tasks import objective_table

_OBJECTIVES = objective_table.OBJECTIVES
# Not every parameterization of UL2's.
_DIFFERENT = [k for k in _OBJECTIVES if not k.startswith(('ul2_r', 'ul2_x_64'))]
_SIZES = [700, 0, 1, 2, 90, 1300, 40, 512, 333, 64]


def _text_dataset(split, shuffle_files, seed=None):
  del split, shuffle_files, seed
  rng = np.random.default_rng(1)
  texts = [''.join(rng.choice(list('abcdefgh .'), size=n)) for n in _SIZES]
  return tf.data.Dataset.from_tensor_slices({'text': texts})


@pytest.fixture
def task():
  """Returns a function that registers a task for an objective's name."""
  names = []

  def register(name: str) -> str:
    objective = _OBJECTIVES[name]
    full_name = f'objective_table_test_{name}'
    seqio.TaskRegistry.add(
      full_name,
      source=seqio.FunctionDataSource(_text_dataset, splits=['train']),
      preprocessors=[
        functools.partial(
          seqio.preprocessors.rekey, key_map={'targets': 'text'}
        ),
        seqio.preprocessors.tokenize,
        seqio.CacheDatasetPlaceholder(),
        *objective.preprocessors,
      ],
      output_features=objective.features(token_documents.VOCABULARY),
      postprocess_fn=objective.postprocess_fn,
      metric_fns=list(objective.metric_fns),
    )
    names.append(full_name)
    return full_name

  yield register
  for name in names:
    seqio.TaskRegistry.remove(name)


@pytest.mark.slow
@pytest.mark.parametrize('name', _OBJECTIVES)
def test_examples_fit_the_features(name, task):
  objective = _OBJECTIVES[name]
  lengths = objective.feature_lengths
  features = objective.features(token_documents.VOCABULARY)
  assert set(lengths) == set(features)
  dataset = seqio.get_mixture_or_task(task(name)).get_dataset(
    lengths, 'train', shuffle=False, seed=3
  )
  examples = list(dataset.as_numpy_iterator())
  assert len(examples) >= 4
  for example in examples:
    for key, length in lengths.items():
      ids = example[key]
      assert ids.dtype == np.int32
      assert 0 < len(ids) <= length
      size = features[key].vocabulary.vocab_size
      assert 0 <= ids.min() <= ids.max() < size
      if features[key].add_eos and name != 'causal_lm':
        assert ids[-1] == 1
        assert not np.isin(ids[:-1], [0, 1]).any()
    assert objective.postprocess_fn('', example=example, is_target=True) > 0
  if name == 'causal_lm':
    # One EOS per non-empty document.
    eos = sum((e['targets'] == 1).sum() for e in examples)
    assert eos == np.count_nonzero(_SIZES)


@pytest.mark.slow
@pytest.mark.parametrize('name', _DIFFERENT)
def test_a_saved_iterator_repeats_the_batches(name, task, tmp_path):
  objective = _OBJECTIVES[name]
  task(name)

  def batches():
    dataset = seqio.get_dataset(
      f'objective_table_test_{name}',
      {k: min(n, 64) for k, n in objective.feature_lengths.items()},
      objective.feature_converter(pack=name != 'masked_lm_nsp'),
      dataset_split='train',
      shuffle=True,
      num_epochs=None,
      seed=7,
      batch_size=3,
    )
    return dataset_iterator.TfDatasetIterator(dataset, checkpoint=True)

  def taken(iterator, count):
    return [
      {k: v.tolist() for k, v in next(iterator).items()} for _ in range(count)
    ]

  iterator = batches()
  first = taken(iterator, 11)
  assert first[0] != first[1]
  iterator.save(str(tmp_path / 'iterator'))
  expected = taken(iterator, 9)
  other = batches()
  other.restore(str(tmp_path / 'iterator'))
  assert taken(other, 9) == expected


def test_names_are_distinct():
  assert all(name == o.name for name, o in _OBJECTIVES.items())
  assert not set(_OBJECTIVES) & set(objective_table.MIXTURES)


@pytest.mark.slow
@pytest.mark.parametrize('name', objective_table.MIXTURES)
def test_mixtures_mix_at_their_rates(name, task):
  mixture = objective_table.MIXTURES[name]
  assert sum(mixture.rates.values()) == pytest.approx(1)
  lengths = dict.fromkeys(mixture.feature_lengths, 64)
  assert all(
    set(_OBJECTIVES[k].feature_lengths) == set(lengths) for k in mixture.rates
  )
  full_name = f'objective_table_test_{name}'
  seqio.MixtureRegistry.add(
    full_name, [(task(k), rate) for k, rate in mixture.rates.items()]
  )
  try:
    dataset = seqio.get_mixture_or_task(full_name).get_dataset(
      lengths, 'train', shuffle=False, seed=5, num_epochs=None
    )
  finally:
    seqio.MixtureRegistry.remove(full_name)
  count = 1500
  modes = np.array(
    [
      example['inputs'][0] - 259
      for example in itertools.islice(dataset.as_numpy_iterator(), count)
    ]
  )
  shares = np.bincount(modes, minlength=3) / count
  # [R], [S], [X].
  expected = np.array([0.4, 0.2, 0.4])
  assert shares.shape == (3,)
  error = (expected * (1 - expected) / count) ** 0.5
  assert (np.abs(shares - expected) < 5 * error).all()


@pytest.mark.parametrize(
  'name',
  [
    *(k for k in _OBJECTIVES if not k.startswith('ul2_')),
    *objective_table.MIXTURES,
  ],
)
def test_gin_files_have_the_table_s_lengths(name):
  gin.add_config_file_search_path(str(ROOT))
  gin.parse_config_file(f'gin/objectives/{name}.gin')
  described = {**_OBJECTIVES, **objective_table.MIXTURES}[name]
  for macro, expected in (
    ('MIXTURE_OR_TASK_NAME', f'fnet_sotu_{name}'),
    ('TASK_FEATURE_LENGTHS', described.feature_lengths),
  ):
    assert gin_macros.value(macro) == expected
  assert expected
  seqio.get_mixture_or_task(f'fnet_sotu_{name}')
