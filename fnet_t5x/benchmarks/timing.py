"""Wall-clock times that can be compared: warm, and taken in turns.

On a shared machine the speed drifts from second to second. All cases of a
comparison therefore take turns, a timed call each a round, and a ratio is the
median over rounds of both sides' times in the same round.
"""

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

Times = Float[np.ndarray, ' rounds']


def time_in_turns(
  cases: Mapping[str, Callable[[], Any]],
  *,
  rounds: int = 20,
  seconds: float = 20.0,
  least_rounds: int = 3,
) -> dict[str, Times]:
  """Calls every case once a round, and returns their times.

  Args:
    cases: functions without arguments; what they return is waited for. Each
      is called once before the first round, to compile.
    rounds: at most so many.
    seconds: no new round begins when so many have passed since the first.
    least_rounds: but so many are always taken.

  Returns:
    For each case its seconds, one a round.

  Raises:
    ValueError: fewer than one round.
  """
  import jax

  if min(rounds, least_rounds) < 1:
    raise ValueError(
      f'time_in_turns: rounds={rounds}, least_rounds={least_rounds}; take at '
      'least one'
    )
  for case in cases.values():
    jax.block_until_ready(case())
  times: dict[str, list[float]] = {name: [] for name in cases}
  order = random.Random(0)
  begin = time.perf_counter()
  for done in range(rounds):
    late = time.perf_counter() - begin > seconds
    if late and done >= least_rounds:
      break
    for name, case in sorted(cases.items(), key=lambda _: order.random()):
      # The case before leaves caches cold and its memory given back: a
      # call that is not timed makes every case follow itself.
      jax.block_until_ready(case())
      start = time.perf_counter()
      jax.block_until_ready(case())
      times[name].append(time.perf_counter() - start)
  return {name: np.asarray(taken) for name, taken in times.items()}


def speedup(slower: Times, faster: Times) -> float:
  """Returns how many times faster: the median of the rounds' own ratios."""
  return float(np.median(slower / faster))
