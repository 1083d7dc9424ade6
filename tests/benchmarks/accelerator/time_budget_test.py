"""Shares of the time, on a manual clock."""

import subprocess
import sys
import time

import pytest

from fnet_t5x.benchmarks.accelerator.time_budget import Clock, TimeBudget


class Hand:
  """A clock that only advances when told to."""

  def __init__(self):
    self.time = 100.0

  def __call__(self):
    return self.time


def test_unused_time_is_shared_by_all_later_sections():
  hand = Hand()
  budget = TimeBudget(60, [1, 2, 3], hand)
  assert budget.next_clock().remaining() == pytest.approx(10)
  # It took 5 of 10: 55 are left for shares of 2 and 3.
  hand.time += 5
  assert budget.next_clock().remaining() == pytest.approx(22)
  hand.time += 22
  assert budget.next_clock().remaining() == pytest.approx(33)


def test_a_late_section_shortens_later_ones_but_keeps_the_limit():
  hand = Hand()
  budget = TimeBudget(60, [1, 1, 1], hand)
  first = budget.next_clock()
  hand.time += 50
  assert first.remaining() == 0
  assert budget.next_clock().remaining() == pytest.approx(5)
  hand.time += 30
  assert budget.next_clock().remaining() == 0


def test_the_expected_time_is_the_longest_of_its_kind():
  clock = Clock(110, Hand())
  assert clock.expected('forward', 3) == 3
  clock.took('forward', 7)
  clock.took('forward', 2)
  assert clock.expected('forward', 3) == 7
  assert clock.expected('step', 3) == 3
  assert clock.fits(10)
  assert not clock.fits(10.1)


@pytest.mark.parametrize('seconds, shares', [(0, [1]), (1, [1, 0])])
def test_rejects_a_budget_without_time(seconds, shares):
  with pytest.raises(ValueError, match='must be positive'):
    TimeBudget(seconds, shares)


def test_the_age_of_a_process_counts_from_its_start():
  code = (
    'import time; time.sleep(0.5)\n'
    'from fnet_t5x.benchmarks.accelerator.time_budget import process_age\n'
    'print(process_age())'
  )
  start = time.monotonic()
  ran = subprocess.run([sys.executable, '-c', code], capture_output=True)
  # The kernel counts in hundredths of a second.
  assert 0.5 <= float(ran.stdout) <= time.monotonic() - start + 0.02
