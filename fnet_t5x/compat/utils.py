"""Dataset, checkpoint and learning-rate configuration."""

from fnet_t5x.compat.engine import USES_T5X

if USES_T5X:
  from t5x.utils import *  # noqa: F403

  from fnet_t5x.compat import initial_checkpoint

  initial_checkpoint.keep_own_position()
else:
  from fnet_t5x.runtime.utils import *  # noqa: F403
