"""What gin files need around a run."""

from fnet_t5x.compat.engine import USES_T5X

if USES_T5X:
  from t5x.gin_utils import *  # noqa: F403
else:
  from fnet_t5x.runtime.gin_utils import *  # noqa: F403
