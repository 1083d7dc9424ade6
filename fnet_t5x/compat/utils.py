"""Dataset, checkpoint and learning-rate configuration."""

from fnet_t5x.compat.engine import USES_T5X

if USES_T5X:
  from t5x.utils import *  # noqa: F403

  from fnet_t5x.compat.initial_checkpoint import (
    CheckpointManager,
  )
else:
  from fnet_t5x.runtime.checkpoints import CheckpointManager  # noqa: F401
  from fnet_t5x.runtime.utils import *  # noqa: F403
