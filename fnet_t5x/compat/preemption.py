"""A checkpoint on SIGTERM, for T5X: its loop can save, but knows no signals.

T5X's training loop saves an emergency checkpoint where its trainer raises
`PreemptionError`. Here is a trainer that does so after the step under way,
whichever command trains: gin files take it as `trainer.Trainer`.

One process notices SIGTERM by itself. Of several, any may get it: JAX tells the
others, and all agree on the step (by Orbax's use of
`jax.experimental.multihost_utils.reached_preemption_sync_point`).
"""

import signal
import threading
from collections.abc import Callable

import jax
from orbax.checkpoint import multihost
from t5x import trainer as trainer_lib

__all__ = ['PREEMPTED', 'Trainer', 'exit_code']

# The exit code of a run that SIGTERM stopped: a shell's for the signal.
PREEMPTED = 128 + signal.SIGTERM


class Trainer(trainer_lib.Trainer):
  """T5X's trainer; SIGTERM ends training after the step under way.

  Training, until then, is T5X's own. What is not a training step is finished
  first, an evaluation for one.
  """

  _terminated = False
  _signal_before = None
  _next_step = 0

  def close(self):
    """Waits for what is being written, and lets go of SIGTERM."""
    super().close()
    if self._signal_before is not None:
      signal.signal(signal.SIGTERM, self._signal_before)
      self._signal_before = None

  def train(self, batch_iter, num_steps, start_step=None):
    """Takes steps, as T5X's trainer does.

    Raises:
      PreemptionError: SIGTERM reached the run. `train_state` is the state after
        the last step that was taken, of which all processes took the same.
    """
    if start_step is None:
      start_step = int(self.train_state.step)
    self._next_step = start_step
    return super().train(batch_iter, num_steps, start_step)

  def compile_train(self, batch):
    """Compiles the training step, and has it look for SIGTERM when it is done.

    Not before it: a step that is taken cannot have been saved yet, and Orbax
    saves no step twice.
    """
    super().compile_train(batch)
    compiled = self._compiled_train_step

    def take_step(train_state, batch):
      # Kept at once: T5X's loop does so at the end of many steps, and their
      # first state's memory is given away by then.
      self.train_state, metrics = compiled(train_state, batch)
      self._next_step += 1
      if self._is_preempted():
        self.train_metrics_manager.flush()
        raise trainer_lib.PreemptionError(
          f'stopped by SIGTERM at step {self._next_step}'
        )
      return self.train_state, metrics

    self._compiled_train_step = take_step
    # From here on there is something to lose. Where there are several processes
    # JAX has a handler of its own.
    main = threading.current_thread() is threading.main_thread()
    if jax.process_count() == 1 and main:
      self._signal_before = signal.signal(signal.SIGTERM, self._terminate)

  def _terminate(self, signum, frame) -> None:
    del signum, frame
    self._terminated = True

  def _is_preempted(self) -> bool:
    if jax.process_count() == 1:
      return self._terminated
    # Every process asks after every step: the first step that none has taken
    # yet is the one where all stop.
    return multihost.reached_preemption(self._next_step)


def exit_code(run: Callable[[], int]) -> int:
  """Returns what a training run returns, or `PREEMPTED` where it was stopped.

  T5X has saved by then, unless the run saves no checkpoints.
  """
  try:
    return run()
  except trainer_lib.PreemptionError as error:
    # Gin adds where the call came from.
    print(str(error).splitlines()[0], flush=True)
    return PREEMPTED
