"""Learning-rate schedules as a product of named factors, T5X's grammar."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fnet_t5x import number_ranges

LearningRateCallable = Callable[[Int[Array, '']], Float[Array, '']]


def create_learning_rate_scheduler(
  factors: str = 'constant * linear_warmup * rsqrt_decay',
  base_learning_rate: float = 0.5,
  warmup_steps: int = 1000,
  decay_factor: float = 0.5,
  steps_per_decay: int = 20000,
  steps_per_cycle: int = 100000,
  step_offset: int = 0,
  min_learning_rate: float = 1e-8,
) -> LearningRateCallable:
  """Returns a function from the step to its learning rate (float32).

  With s = max(0, step - step_offset), w = warmup_steps, the factors are

    constant                base_learning_rate
    linear_warmup           min(1, s / w)
    linear_decay            base_learning_rate *
                            min(s / w, 1 + decay_factor * (w - s)); it holds
                            its own constant and warmup
    rsqrt_decay             1 / sqrt(max(s, w))
    rsqrt_normalized_decay  sqrt(w / max(s, w))
    decay_every             decay_factor ** floor(s / steps_per_decay)
    cosine_decay            (1 + cos(pi * frac(max(0, s - w) /
                            steps_per_cycle))) / 2, restarting each cycle

  Args:
    factors: names from the table, joined by `*`.
    base_learning_rate: the constant.
    warmup_steps: steps of warmup, and the origin of the decays.
    decay_factor: see `linear_decay` and `decay_every`.
    steps_per_decay: steps between two drops of `decay_every`.
    steps_per_cycle: steps of one cosine cycle.
    step_offset: the step that counts as step 0.
    min_learning_rate: the product is never less than this.

  Raises:
    ValueError: a rate or number of steps below 0, or no finite number; an
      unknown factor, or one that divides by `warmup_steps` while
      that is less than 1.
  """
  number_ranges.check('LEARNING_RATE', base_learning_rate, 0)
  number_ranges.check('WARMUP_STEPS', warmup_steps, 0)
  warmup = float(warmup_steps)

  def linear_decay(step):
    slope = 1.0 + decay_factor * (warmup - step)
    return base_learning_rate * jnp.minimum(step / warmup, slope)

  def cosine_decay(step):
    cycles = jnp.maximum(0.0, (step - warmup) / steps_per_cycle)
    return jnp.maximum(0.0, (1.0 + jnp.cos(jnp.pi * (cycles % 1.0))) / 2.0)

  table = {
    'constant': lambda step: base_learning_rate,
    'linear_warmup': lambda step: jnp.minimum(1.0, step / warmup),
    'linear_decay': linear_decay,
    'rsqrt_decay': lambda step: jax.lax.rsqrt(jnp.maximum(step, warmup)),
    'rsqrt_normalized_decay': lambda step: jnp.sqrt(
      warmup / jnp.maximum(step, warmup)
    ),
    'decay_every': lambda step: decay_factor ** (step // steps_per_decay),
    'cosine_decay': cosine_decay,
  }
  names = [name.strip() for name in factors.split('*')]
  for name in names:
    if name not in table:
      raise ValueError(
        f'unknown learning-rate factor {name!r} in {factors!r}: use '
        f'{", ".join(table)}'
      )
    if warmup < 1 and name in (
      'linear_warmup',
      'linear_decay',
      'rsqrt_decay',
      'rsqrt_normalized_decay',
    ):
      raise ValueError(
        f'warmup_steps is {warmup_steps}, but the learning-rate factor '
        f'{name!r} divides by it: set it to 1 or more, or leave {name!r} out'
      )

  def learning_rate(step: Int[Array, '']) -> Float[Array, '']:
    since = jnp.maximum(0, jnp.asarray(step) - step_offset)
    product = jnp.float32(1.0)
    for name in names:
      product = product * table[name](since)
    return jnp.maximum(product, min_learning_rate).astype(jnp.float32)

  return learning_rate
