"""Timing in turns: rounds, limits and ratios."""

import numpy as np
import pytest

from fnet_t5x.benchmarks import timing
from fnet_t5x.benchmarks.timing import speedup, time_in_turns


def test_cases_take_turns_after_a_warm_up():
  calls = []
  cases = {name: lambda name=name: calls.append(name) for name in 'ab'}
  times = time_in_turns(cases, rounds=3)
  assert calls[:2] == ['a', 'b']
  for start in range(2, 14, 4):
    # Each timed call follows an untimed one of the same case.
    first, again, second, last = calls[start : start + 4]
    assert first == again and second == last and {first, second} == {'a', 'b'}
  assert len(calls) == 14
  assert {name: len(taken) for name, taken in times.items()} == {'a': 3, 'b': 3}
  assert all((taken > 0).all() for taken in times.values())


def test_long_calls_are_made_once_per_round(monkeypatch):
  monkeypatch.setattr(timing, '_LONG_SECONDS', 0.0)
  calls = []
  cases = {name: lambda name=name: calls.append(name) for name in 'ab'}
  time_in_turns(cases, rounds=3)
  assert len(calls) == 8
  for start in range(0, 8, 2):
    assert {*calls[start : start + 2]} == {'a', 'b'}


def test_time_limit_leaves_the_minimum_of_rounds():
  times = time_in_turns({'a': lambda: 0}, rounds=50, seconds=0, min_rounds=4)
  assert len(times['a']) == 4


def test_speedup_is_the_median_of_ratios_within_a_round():
  # In the middle round the machine is ten times slower, for both sides.
  slower, faster = np.array([2.0, 20.0, 2.0]), np.array([1.0, 10.0, 1.0])
  assert speedup(slower, faster) == 2.0
  assert speedup(np.array([3.0, 9.0, 1.0]), np.array([1.0, 1.0, 1.0])) == 3.0


def test_zero_rounds_are_rejected():
  with pytest.raises(ValueError, match='rounds=0'):
    time_in_turns({'a': lambda: 0}, rounds=0)
