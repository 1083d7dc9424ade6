"""Writer to Weights & Biases, which only the embedded runtime has."""

from fnet_t5x.compat.engine import USES_T5X

if USES_T5X:
  raise ImportError(
    'T5X does not write to Weights & Biases: leave gin/runs/wandb.gin out, or '
    'set FNET_T5X_ENGINE=runtime'
  )
from fnet_t5x.runtime.wandb_writer import *  # noqa: F403
