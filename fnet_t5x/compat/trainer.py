"""Trainer: the training step, its loop over batches, and actions."""

from fnet_t5x.compat.engine import USES_T5X

if USES_T5X:
  from t5x.trainer import *  # noqa: F403

  from fnet_t5x.compat.preemption import Trainer  # noqa: F401
else:
  from fnet_t5x.runtime.trainer import *  # noqa: F403
