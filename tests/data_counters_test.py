"""Counters of the data pipeline, also across a resumed run."""

import pytest

from fnet_t5x import data_counters


@pytest.fixture(autouse=True)
def _no_counts():
  data_counters.reset()
  yield
  data_counters.reset()


def test_counts_add_up():
  assert data_counters.add('a') == 1
  assert data_counters.add('a', 2) == 3
  data_counters.add('b')
  assert data_counters.counts() == {'a': 3, 'b': 1}


def test_a_resumed_run_continues_its_counts():
  data_counters.add('of_another_run')
  data_counters.restore({'step': 5, 'loss': 0.5, 'data/a': 7, 'data/b': 0})
  data_counters.add('a')
  assert data_counters.counts() == {'a': 8, 'b': 0}
  data_counters.restore({})
  assert data_counters.counts() == {}


@pytest.mark.parametrize('value', [None, -1, 1.5, '3', True, [], 1e300])
def test_values_that_are_not_counts_are_ignored(value):
  data_counters.restore({'data/a': value, 'data/b': 2})
  assert data_counters.counts() == {'b': 2}
