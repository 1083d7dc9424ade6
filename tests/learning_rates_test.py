"""The published schedule: up to the constant, and down to 0."""

import numpy as np
import pytest

from fnet_t5x import learning_rates
from fnet_t5x.runtime import utils


@pytest.mark.parametrize(('total', 'warmup'), [(1_000_000, 10_000), (50, 7)])
def test_linear_decay_ends_at_the_last_step(total, warmup):
  rate = utils.create_learning_rate_scheduler(
    factors='linear_decay',
    base_learning_rate=1e-4,
    warmup_steps=warmup,
    decay_factor=learning_rates.linear_decay_factor(total, warmup),
    min_learning_rate=0.0,
  )
  steps = np.linspace(0, total, 11).astype(int)
  expected = 1e-4 * np.interp(steps, [0, warmup, total], [0, 1, 0])
  np.testing.assert_allclose(
    [rate(int(step)) for step in steps], expected, rtol=1e-4, atol=1e-10
  )


def test_a_run_of_warm_up_alone_is_refused():
  with pytest.raises(ValueError, match='WARMUP_STEPS is 10 and TRAIN_STEPS 10'):
    learning_rates.linear_decay_factor(10, 10)


def test_warm_up_is_a_share_of_the_run():
  assert learning_rates.warmup_steps(171, 0.1) == 17
  # The schedule divides by it.
  assert learning_rates.warmup_steps(5, 0.1) == 1
  with pytest.raises(ValueError, match='WARMUP_SHARE'):
    learning_rates.warmup_steps(100, 1.0)
