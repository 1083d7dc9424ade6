"""Numbers of a learning-rate schedule that depend on others."""

import gin


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
