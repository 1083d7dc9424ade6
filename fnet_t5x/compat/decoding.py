"""Greedy, sampled and beam decoding."""

from fnet_t5x.compat.engine import USES_T5X

if USES_T5X:
  from t5x.decoding import *  # noqa: F403
else:
  from fnet_t5x.runtime.decoding import *  # noqa: F403
