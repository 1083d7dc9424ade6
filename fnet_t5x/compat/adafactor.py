"""The Adafactor optimizer."""

from fnet_t5x.compat.engine import USES_T5X

if USES_T5X:
  from t5x.adafactor import *  # noqa: F403
else:
  from fnet_t5x.runtime.adafactor import *  # noqa: F403
