"""Inference run."""

from fnet_t5x.compat.engine import USES_T5X

if USES_T5X:
  from t5x.infer import *  # noqa: F403
else:
  from fnet_t5x.runtime.infer import *  # noqa: F403
