"""Datasets of a config: order, saved position, and bad input."""

import dataclasses

import jax
import numpy as np
import pytest
import seqio
import small_runs

from fnet_t5x.runtime import datasets

CONVERTER = seqio.EncDecFeatureConverter


def iterator(**changes):
  cfg = small_runs.dataset_config(pack=True, **changes)
  return datasets.DeviceIterator(
    datasets.get_dataset(cfg, 0, 1, CONVERTER),
    jax.sharding.SingleDeviceSharding(jax.devices()[0]),
  )


def assert_equal(actual, expected):
  assert actual.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(actual[name], value, err_msg=name)


@pytest.mark.slow
def test_position_is_restored_within_a_shuffle(tmp_path):
  before = iterator()
  for _ in range(3):
    next(before)
  before.save(str(tmp_path / 'position'))
  # Past the end of an epoch: the position includes the order of the next one.
  expected = [next(before) for _ in range(12)]
  after = iterator()
  after.restore(str(tmp_path / 'position'))
  for batch in expected:
    assert_equal(next(after), batch)
  unshuffled = [next(iterator(shuffle=False)) for _ in range(1)]
  name = 'encoder_input_tokens'
  assert not np.array_equal(unshuffled[0][name], next(iterator())[name])


@pytest.mark.slow
def test_position_of_another_dataset_is_refused(tmp_path):
  before = iterator()
  next(before)
  before.save(str(tmp_path / 'position'))
  with pytest.raises(ValueError, match='position in the data'):
    iterator(batch_size=4).restore(str(tmp_path / 'position'))
  other = iterator(shuffle=False)
  with pytest.raises(ValueError, match='position in the data') as error:
    other.restore(str(tmp_path / 'position'))
  assert '\n' not in str(error.value)


def test_evaluation_has_the_requested_batches():
  cfg = small_runs.dataset_config('validation', batch_size=4)
  sets = datasets.get_training_eval_datasets(cfg, 0, 1, 5, CONVERTER)
  (batches,) = (list(ds.as_numpy_iterator()) for ds in sets.values())
  assert list(sets) == [small_runs.TASK]
  assert len(batches) == 5
  # Thirteen examples: the fourth batch wraps around.
  rows = np.concatenate([b['encoder_input_tokens'] for b in batches])
  count = small_runs.VALIDATION_EXAMPLES
  np.testing.assert_array_equal(rows[count:], rows[: len(rows) - count])
  assert len({row.tobytes() for row in rows[:count]}) == count


def test_mixture_is_evaluated_by_task_and_whole():
  small_runs.register()
  name = 'small_runs_mixture'
  if name not in seqio.MixtureRegistry.names():
    seqio.MixtureRegistry.add(name, [(small_runs.TASK, 1)])
  cfg = small_runs.dataset_config('validation', mixture_or_task_name=name)
  sets = datasets.get_training_eval_datasets(cfg, 0, 1, 1, CONVERTER)
  assert list(sets) == [small_runs.TASK, name]


def test_task_needs_no_registry():
  task = small_runs.register()
  nameless = seqio.Task(
    'small_runs_nameless',
    source=task.source,
    preprocessors=task.preprocessors,
    output_features=task.output_features,
  )
  cfg = small_runs.dataset_config('validation', mixture_or_task_name=nameless)
  sets = datasets.get_training_eval_datasets(cfg, 0, 1, 1, CONVERTER)
  assert list(sets) == ['small_runs_nameless']


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'mixture_or_task_name': 'small_runs_ecco'},
      'did you mean small_runs_echo',
    ),
    ({'split': 'test'}, "has no split 'test'; it has train, validation"),
    ({'batch_size': 0}, 'BATCH_SIZE is 0'),
    (
      {'task_feature_lengths': {'inputs': 0, 'targets': 8}},
      r"TASK_FEATURE_LENGTHS\['inputs'\] is 0",
    ),
    (
      {'task_feature_lengths': {'inputs': 8, 'outputs': 8}},
      "names 'outputs'; .* has inputs, targets",
    ),
    ({'task_feature_lengths': {'inputs': 8}}, 'lacks targets'),
  ],
)
def test_bad_config_is_one_line(changes, message):
  cfg = dataclasses.replace(small_runs.dataset_config(), **changes)
  with pytest.raises(ValueError, match=message) as error:
    datasets.get_dataset(cfg, 0, 1, CONVERTER)
  assert '\n' not in str(error.value)


def cacheable_mixture(name: str) -> seqio.Mixture:
  """Returns a mixture of a task that supports caching and one that does not."""
  task = small_runs.register()
  if name not in seqio.TaskRegistry.names():
    seqio.TaskRegistry.add(
      name,
      source=task.source,
      preprocessors=[
        task.preprocessors[0],
        seqio.CacheDatasetPlaceholder(),
        *task.preprocessors[1:],
      ],
      output_features=task.output_features,
    )
    seqio.MixtureRegistry.add(f'{name}_mixture', [name, small_runs.TASK], 1)
  return seqio.MixtureRegistry.get(f'{name}_mixture')


def test_missing_cache_is_one_line(tmp_path, monkeypatch):
  mixture = cacheable_mixture('small_runs_cacheable')
  monkeypatch.setattr(seqio.utils, '_GLOBAL_CACHE_DIRECTORIES', [])
  cfg = small_runs.dataset_config(mixture_or_task_name=mixture, use_cached=True)
  message = 'USE_CACHED_TASKS is True, but small_runs_cacheable is in no cache '
  with pytest.raises(ValueError, match=rf'^{message}.*none given') as error:
    datasets.get_dataset(cfg, 0, 1, CONVERTER)
  assert '\n' not in str(error.value)
  # An unfinished job leaves a folder without its last file.
  folder = tmp_path / 'small_runs_cacheable'
  folder.mkdir()
  seqio.add_global_cache_dirs([str(tmp_path)])
  with pytest.raises(ValueError, match=f'{message}.*{tmp_path}.*--seqio_add'):
    datasets.get_dataset(cfg, 0, 1, CONVERTER)
  (folder / 'COMPLETED').touch()
  assert datasets.get_mixture_or_task(cfg) is mixture


@pytest.mark.slow
def test_uncacheable_task_is_read_from_its_source():
  cached, uncached = (
    iterator(shuffle=False, use_cached=use_cached)
    for use_cached in (True, False)
  )
  assert_equal(next(cached), next(uncached))


def test_vocabularies_must_match():
  cfg = small_runs.dataset_config()
  model = small_runs.bigram_model()
  datasets.verify_matching_vocabs(cfg, model)
  model._output_vocabulary = seqio.ByteVocabulary(extra_ids=10)
  with pytest.raises(
    ValueError, match=r"targets .* is not the model's"
  ) as error:
    datasets.verify_matching_vocabs(cfg, model)
  assert '\n' not in str(error.value)


def test_empty_dataset_is_one_line():
  cfg = small_runs.dataset_config()
  with pytest.raises(ValueError, match=r"split 'train', .* lower BATCH_SIZE"):
    datasets.first_batch(iter([]), cfg)
