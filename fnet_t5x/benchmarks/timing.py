"""Comparable wall-clock times: warm, and measured in turns.

The speed of a shared machine drifts from second to second. The cases of a
comparison therefore take turns, with one timed call each per round, and a
speedup is the median over rounds of the ratio within a round.
"""

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

Times = Float[np.ndarray, ' rounds']

# Calls below this are made twice per round.
_LONG_SECONDS = 1.0


def time_in_turns(
  cases: Mapping[str, Callable[[], Any]],
  *,
  rounds: int = 20,
  seconds: float = 20.0,
  min_rounds: int = 3,
) -> dict[str, Times]:
  """Times every case once per round.

  Args:
    cases: functions without arguments, whose results are waited for. Each is
      called once before the first round, to compile.
    rounds: maximum number of rounds.
    seconds: time after which no new round begins.
    min_rounds: minimum number of rounds, whatever their time.

  Returns:
    For each case its seconds, one per round.

  Raises:
    ValueError: for fewer than one round.
  """
  import jax

  if min(rounds, min_rounds) < 1:
    raise ValueError(
      f'time_in_turns: rounds={rounds}, min_rounds={min_rounds}; take at '
      'least one'
    )
  for case in cases.values():
    jax.block_until_ready(case())
  times: dict[str, list[float]] = {name: [] for name in cases}
  order = random.Random(0)
  begin = time.perf_counter()
  for done in range(rounds):
    late = time.perf_counter() - begin > seconds
    if late and done >= min_rounds:
      break
    for name, case in sorted(cases.items(), key=lambda _: order.random()):
      taken = _seconds(case)
      if taken < _LONG_SECONDS:
        # The second call of two, so that it follows the same case: another
        # case leaves other caches and memory behind, which long calls do not
        # notice.
        taken = _seconds(case)
      times[name].append(taken)
  return {name: np.asarray(taken) for name, taken in times.items()}


def _seconds(case: Callable[[], Any]) -> float:
  import jax

  start = time.perf_counter()
  jax.block_until_ready(case())
  return time.perf_counter() - start


def speedup(slower: Times, faster: Times) -> float:
  """Returns the speedup: the median over rounds of the ratio of times."""
  return float(np.median(slower / faster))
