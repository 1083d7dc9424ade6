"""Meshes, axis rules and partitioned functions."""

from fnet_t5x.compat.engine import USES_T5X

if USES_T5X:
  from t5x.partitioning import *  # noqa: F403
else:
  from fnet_t5x.runtime.partitioning import *  # noqa: F403
