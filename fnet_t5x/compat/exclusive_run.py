"""One training run at a time in a model directory, for T5X as the engine."""

import functools
import inspect
import os
from collections.abc import Callable

import jax

from fnet_t5x.runtime import directory_lock


def exclusive(train: Callable[..., int]) -> Callable[..., int]:
  """Returns T5X's `train`, which then keeps other runs out of its `model_dir`.

  Of several processes the first holds the lock: it alone writes what the run
  reports. What has no locks is said in `directory_lock.held`.

  Args:
    train: has a keyword argument `model_dir`, the path of a folder.

  Returns:
    A function of the same arguments. It raises ValueError if another run has
    the folder.
  """

  @functools.wraps(train)
  def exclusive_train(*args, model_dir, **kwargs):
    if '://' in model_dir or jax.process_index():
      return train(*args, model_dir=model_dir, **kwargs)
    os.makedirs(model_dir, exist_ok=True)
    with directory_lock.held(model_dir):
      return train(*args, model_dir=model_dir, **kwargs)

  # Gin asks for the arguments of the function itself, not of what it wraps.
  exclusive_train.__signature__ = inspect.signature(train)
  return exclusive_train
