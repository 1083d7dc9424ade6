"""Look-up of tasks by name."""

import pytest

from fnet_t5x.tasks import catalog


def test_tasks_are_found_by_name():
  for name, entry in catalog.CATALOG.items():
    task = catalog.get(name)
    assert task.name == name
    assert set(entry.feature_lengths) == set(task.output_features)


def test_unknown_task_lists_close_names():
  with pytest.raises(ValueError, match='did you mean fnet_sotu_prefix_lm'):
    catalog.get('sotu_prefix_lm')
  with pytest.raises(ValueError, match=r'tasks\.catalog` lists ours'):
    catalog.get('zzz')


@pytest.mark.parametrize('lengths', [None, {}, {'inputs': 8}])
def test_missing_length_is_an_error(lengths):
  with pytest.raises(ValueError, match='TASK_FEATURE_LENGTHS'):
    catalog.check_feature_lengths('fnet_sotu_prefix_lm', lengths)


def test_zero_length_is_an_error():
  with pytest.raises(ValueError, match="'inputs' is 0"):
    catalog.check_feature_lengths(
      'fnet_sotu_prefix_lm', {'inputs': 0, 'targets': 8}
    )
