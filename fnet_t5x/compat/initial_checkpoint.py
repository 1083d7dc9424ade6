"""Runs of T5X that start from another run's checkpoint."""

import functools
import os

from t5x import checkpoints

from fnet_t5x import bare_weights

_Manager = checkpoints.OrbaxCheckpointManagerInterface


def keep_own_position() -> None:
  """Makes T5X's manager read the position in the data from its own run only.

  If a run saves the position (`SaveCheckpointConfig.save_dataset`), T5X's
  manager reads it from every checkpoint. A run that starts from a checkpoint of
  another task would end with an error of TensorFlow's, and one of the same task
  would continue with the other run's data.

  It also words the error for a checkpoint without optimizer state.

  The method is replaced, because T5X's training loop constructs its own
  configuration to resume from, and refuses to mix classes of managers.
  """
  if not hasattr(_Manager.restore, '__wrapped__'):
    _Manager.restore = _without_others_position(_Manager.restore)


def _without_others_position(restore):
  @functools.wraps(restore)
  def restore_state(self, step=None, path=None, *args, **kwargs):
    reads_position = self._should_write_dataset_ckpt
    if path is not None:
      folder = os.path.dirname(os.path.normpath(path))
      own = os.path.realpath(folder) == os.path.realpath(self.directory)
      self._should_write_dataset_ckpt = reads_position and own
    try:
      return restore(self, step, path, *args, **kwargs)
    except ValueError as error:
      # JAX's comparison of what was read with what was to be.
      if 'different numbers of pytree children' in str(error) and (
        "tree['state']" in str(error) and 'param_states' in str(error)
      ):
        raise bare_weights.refusal(path) from error
      raise
    finally:
      self._should_write_dataset_ckpt = reads_position

  return restore_state
