"""A checkpoint on SIGTERM, for T5X: its loop can save, but knows no signals.

Ctrl-C of a single process is taken likewise.

T5X's training loop saves an emergency checkpoint where its trainer raises
`PreemptionError`. Here is a trainer that does so after the step under way,
whichever command trains: gin files take it as `trainer.Trainer`.

One process notices SIGTERM by itself. Of several, any may get it: JAX tells the
others, and all agree on the step (by Orbax's use of
`jax.experimental.multihost_utils.reached_preemption_sync_point`).
"""

import contextlib
import signal
from collections.abc import Callable

import jax
from orbax.checkpoint import multihost
from t5x import trainer as trainer_lib

from fnet_t5x import stop_signals

__all__ = ['PREEMPTED', 'Trainer', 'exit_code']

# The exit code of a run that SIGTERM stopped: a shell's for the signal.
PREEMPTED = 128 + signal.SIGTERM


class Trainer(trainer_lib.Trainer):
  """T5X's trainer; SIGTERM ends training after the step under way.

  Training, until then, is T5X's own. What is not a training step is finished
  first, an evaluation for one.
  """

  _received = None
  _deferred = contextlib.nullcontext()
  _next_step = 0

  def close(self):
    """Waits for what is being written, and lets go of the signals."""
    super().close()
    self._deferred.__exit__(None, None, None)
    self._deferred = contextlib.nullcontext()

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
        raise self._preemption_error()
      return self.train_state, metrics

    self._compiled_train_step = take_step
    # From here on there is something to lose. Where there are several processes
    # JAX has a handler of its own.
    if jax.process_count() == 1 and self._received is None:
      self._deferred = stop_signals.deferred(
        stop=lambda: None, print_line=_print_line
      )
      self._received = self._deferred.__enter__()

  def _preemption_error(self):
    interrupted = self._received and self._received.signal == signal.SIGINT
    by = 'Ctrl-C' if interrupted else 'SIGTERM'
    error = trainer_lib.PreemptionError(
      f'stopped by {by} at step {self._next_step}'
    )
    error.exit_code = self._received.exit_code if self._received else PREEMPTED
    return error

  def _is_preempted(self) -> bool:
    if self._received is not None:
      return self._received.signal is not None
    # Every process asks after every step: the first step that none has taken
    # yet is the one where all stop.
    return multihost.reached_preemption(self._next_step)


def _print_line(line):
  print(line, flush=True)


def exit_code(run: Callable[[], int]) -> int:
  """Returns what a training run returns, or the signal's where it was stopped.

  A shell's exit codes: 143 for SIGTERM, 130 for Ctrl-C.

  T5X has saved by then, unless the run saves no checkpoints.
  """
  try:
    return run()
  except trainer_lib.PreemptionError as error:
    # Gin adds where the call came from.
    print(str(error).splitlines()[0], flush=True)
    return getattr(error, 'exit_code', PREEMPTED)
