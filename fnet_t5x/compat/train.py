"""Training run."""

from fnet_t5x.compat.engine import USES_T5X

if USES_T5X:
  import t5x.train
  from t5x.train import *  # noqa: F403

  from fnet_t5x.compat.exclusive_run import exclusive
  from fnet_t5x.compat.preemption import exit_code

  train = exclusive(t5x.train.train)
else:
  from fnet_t5x.runtime.train import *  # noqa: F403

  def exit_code(run):
    """Returns the result of a run, which is the runtime's exit code."""
    return run()
