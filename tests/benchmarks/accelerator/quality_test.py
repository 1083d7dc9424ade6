"""The time of the kit's training runs, shared among networks and seeds."""

import pytest

from fnet_t5x.benchmarks.accelerator import quality, timed_training

SIZES = timed_training.Sizes('toy', 4, 8, 2)


@pytest.mark.parametrize('remaining', [1.0, 10.0, 100.0, 1000.0])
def test_all_runs_fit_into_the_time_that_is_left(remaining):
  costs = [
    timed_training.Costs(0.1, 0.02, 0.3),
    timed_training.Costs(0.2, 0.01, 0.2),
  ]
  seeds, seconds = quality.share_time(costs, SIZES, remaining)
  whole = 0.0
  for cost in costs:
    steps = seconds / cost.step
    doublings = sum(2 * 2**n <= steps + 1 for n in range(30))
    evaluations = len(timed_training.FRACTIONS) + doublings
    whole += cost.start + seconds + cost.step + evaluations * cost.evaluate
  assert whole * seeds <= remaining
  assert seeds == {1.0: 0, 10.0: 1, 100.0: 1, 1000.0: 3}[remaining]
  if seeds:
    assert whole * seeds > 0.8 * remaining
