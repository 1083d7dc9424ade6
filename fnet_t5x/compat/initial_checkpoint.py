"""Runs of T5X that start from another run's checkpoint."""

import os
from typing import Any

from t5x import checkpoints

__all__ = ['CheckpointManager']


class CheckpointManager(checkpoints.OrbaxCheckpointManagerInterface):
  """T5X's manager, which takes the position in the data from its own run only.

  T5X's reads the position from every checkpoint if the run saves it
  (`SaveCheckpointConfig.save_dataset`). A run that starts from a checkpoint of
  another task would end with an error of TensorFlow's, and one of the same task
  would continue with the other run's data.
  """

  def restore(
    self, step: int | None = None, path: str | None = None, **options: Any
  ):
    """Restores as T5X does; of another folder, without the position."""
    reads_position = self._should_write_dataset_ckpt
    if path is not None:
      folder = os.path.dirname(os.path.normpath(path))
      own = os.path.realpath(folder) == os.path.realpath(self.directory)
      self._should_write_dataset_ckpt = reads_position and own
    try:
      return super().restore(step=step, path=path, **options)
    finally:
      self._should_write_dataset_ckpt = reads_position
