"""Numbers of a learning-rate schedule that depend on others."""

import gin

from fnet_t5x import number_ranges


@gin.configurable(module='learning_rates')
def linear_decay_factor(total_steps: int, warmup_steps: int) -> float:
  """Returns the factor with which `linear_decay` ends at 0 at the last step.

  `create_learning_rate_scheduler`'s factor `linear_decay` is the constant times
  min(s / w, 1 + decay_factor (w - s)) at step s, with w = `warmup_steps`.

  Args:
    total_steps: the step at which the rate is 0 (TRAIN_STEPS).
    warmup_steps: steps of the linear warm-up (WARMUP_STEPS).

  Raises:
    ValueError: the warm-up is as long as the run.
  """
  if warmup_steps >= total_steps:
    raise ValueError(
      f'WARMUP_STEPS is {warmup_steps} and TRAIN_STEPS {total_steps}: a linear '
      'decay needs steps after the warm-up; lower WARMUP_STEPS'
    )
  return 1 / (total_steps - warmup_steps)


@gin.configurable(module='learning_rates')
def warmup_steps(total_steps: int, share: float) -> int:
  """Returns the number of warm-up steps of a run, at least 1.

  Args:
    total_steps: steps of the run (TRAIN_STEPS).
    share: share of them, at least 0 and less than 1 (WARMUP_SHARE).

  Raises:
    ValueError: the share is out of range.
  """
  number_ranges.check('WARMUP_SHARE', share, 0, below=1)
  # `linear_decay` divides by it.
  return max(1, int(total_steps * share))
