"""Checkpoints that have parameters and no optimizer state."""

from typing import Any


def refusal(path: Any) -> ValueError:
  """Returns the error of a run that expects the optimizer's state there."""
  return ValueError(
    f'{path} has no optimizer state, as converted weights do not; add '
    '--gin_file=gin/runs/start_from_weights.gin to begin with a new one'
  )
