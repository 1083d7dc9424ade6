"""Lock of the model directory for training runs of T5X."""

import functools
import inspect
import os
from collections.abc import Callable

import jax

from fnet_t5x.runtime import directory_lock


def exclusive(train: Callable[..., int]) -> Callable[..., int]:
  """Returns T5X's `train`, with a lock that excludes other runs of `model_dir`.

  Of several processes, the first has the lock, as it alone writes reports. See
  `directory_lock.held` for folders that cannot be locked.

  Args:
    train: function with a keyword argument `model_dir`, the path of a folder.

  Returns:
    A function of the same arguments. It raises ValueError if another run uses
    the folder.
  """

  @functools.wraps(train)
  def exclusive_train(*args, model_dir, **kwargs):
    if '://' in model_dir or jax.process_index():
      return train(*args, model_dir=model_dir, **kwargs)
    os.makedirs(model_dir, exist_ok=True)
    with directory_lock.held(model_dir):
      return train(*args, model_dir=model_dir, **kwargs)

  # Gin reads the signature of the wrapper, not of the wrapped function.
  exclusive_train.__signature__ = inspect.signature(train)
  return exclusive_train
