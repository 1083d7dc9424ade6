"""Training metrics that merge across microbatches and steps."""

from fnet_t5x.compat.engine import USES_T5X

if USES_T5X:
  from t5x.metrics import *  # noqa: F403
else:
  from fnet_t5x.runtime.metrics import *  # noqa: F403
