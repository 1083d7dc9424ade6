"""Optional writer of a run's metrics to Weights & Biases, enabled in gin."""

import importlib.util
import os
import secrets
import sys
from collections.abc import Mapping
from typing import Any

import gin
import tensorflow as tf

from fnet_t5x import gin_check
from fnet_t5x.runtime import console

# Has the id of the Weights & Biases run, so that a resumed run continues it.
ID_FILE = 'wandb-id.txt'


class WandbWriter:
  """Writer of metrics to a Weights & Biases run."""

  def __init__(self, run: Any):
    self._run = run

  def write(
    self, collection: str, step: int, values: Mapping[str, float]
  ) -> None:
    """Sends a row asynchronously.

    Args:
      collection: as in `metrics.jsonl`; the prefix of the metrics' names.
      step: the number of steps taken so far.
      values: metrics by name.
    """
    # Not as their own step, which cannot go back when a run is resumed.
    self._run.log(
      {'step': step} | {f'{collection}/{k}': v for k, v in values.items()}
    )

  def close(self) -> None:
    """Waits for pending rows, and marks the run failed if there is an error."""
    self._run.finish(exit_code=int(sys.exc_info()[0] is not None))


@gin.configurable
def open_run(
  model_dir: str, resumed: bool, project: str | None = None
) -> WandbWriter | None:
  """Starts a Weights & Biases run, or continues the one of the folder.

  Args:
    model_dir: the run's folder; its last component is the run's name.
    resumed: whether the run is resumed.
    project: the project in Weights & Biases; None disables the writer.

  Returns:
    The writer; None without a project.

  Raises:
    ImportError: wandb is not installed.
    ValueError: wandb reports an error, such as a missing API key.
  """
  if project is None:
    return None
  if importlib.util.find_spec('wandb') is None:
    raise ImportError(
      "WANDB_PROJECT needs wandb: pip install 'fnet_t5x[wandb]'"
    )
  import wandb

  try:
    run = wandb.init(
      project=project,
      name=os.path.basename(os.path.normpath(model_dir)),
      dir=None if '://' in str(model_dir) else model_dir,
      id=_run_id(model_dir, resumed),
      resume='allow',
      config=gin_check.macros_of(gin.config_str()),
      # The run prints its own lines; wandb would print them twice.
      settings=wandb.Settings(silent=True, console='off'),
    )
  except wandb.errors.Error as error:
    raise ValueError(
      f'WANDB_PROJECT={project!r}: {str(error).rstrip(".")}; run `wandb '
      'login`, set WANDB_MODE=offline, or leave gin/runs/wandb.gin out'
    ) from error
  run.define_metric('*', step_metric='step')
  # Reading the URL of an offline run prints a warning.
  where = f'offline, in {run.dir}' if run.offline else run.url
  console.print_line(f'Weights & Biases: {where}')
  return WandbWriter(run)


def _run_id(model_dir: str, resumed: bool) -> str:
  path = os.path.join(model_dir, ID_FILE)
  if resumed and tf.io.gfile.exists(path):
    with tf.io.gfile.GFile(path) as f:
      return f.read().strip()
  run_id = secrets.token_hex(8)
  with tf.io.gfile.GFile(path, 'w') as f:
    f.write(f'{run_id}\n')
  return run_id
