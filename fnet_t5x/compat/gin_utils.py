"""Gin flags, and the configuration and vocabulary saved by a run."""

from fnet_t5x.compat.engine import USES_T5X
from fnet_t5x.runtime import kept_vocabulary

if USES_T5X:
  from t5x import gin_utils as _engine
  from t5x.gin_utils import *  # noqa: F403
else:
  from fnet_t5x.command_line import rewrite_gin_args  # noqa: F401 (T5X's name)
  from fnet_t5x.runtime import gin_utils as _engine
  from fnet_t5x.runtime.gin_utils import *  # noqa: F403


def summarize_gin_config(model_dir: str, summary_writer, step: int) -> None:
  """Saves a training run's configuration and vocabulary in `model_dir`.

  Args:
    model_dir: the run's folder.
    summary_writer: TensorBoard's writer, or None.
    step: the first step of the run.

  Raises:
    ValueError: the run has saved a different vocabulary.
  """
  kept_vocabulary.keep(model_dir)
  _engine.summarize_gin_config(model_dir, summary_writer, step)
