"""Checkpoint on SIGTERM for T5X, whose training loop does not handle signals.

In a single process, Ctrl-C is handled in the same way.

T5X's training loop saves an emergency checkpoint if its trainer raises
`PreemptionError`. The trainer here, which gin files use as `trainer.Trainer`,
raises it after the current step.

A single process handles SIGTERM itself. With several processes, any may receive
it: JAX notifies the others, and all agree on the step (through Orbax's
`jax.experimental.multihost_utils.reached_preemption_sync_point`).
"""

import contextlib
import signal
import sys
from collections.abc import Callable

import jax
from orbax.checkpoint import multihost
from t5x import trainer as trainer_lib

from fnet_t5x import stop_signals

__all__ = ['PREEMPTED', 'Trainer', 'exit_code']

# Exit code of a run stopped by SIGTERM, as in a shell.
PREEMPTED = 128 + signal.SIGTERM


class Trainer(trainer_lib.Trainer):
  """T5X's trainer, stopped by SIGTERM after the current training step.

  Training is otherwise T5X's. Whatever is not a training step, such as an
  evaluation, is finished first.
  """

  _received = None
  _deferred = contextlib.nullcontext()
  _next_step = 0

  def close(self):
    """Finishes pending writes, and restores the signal handlers."""
    super().close()
    self._deferred.__exit__(None, None, None)
    self._deferred = contextlib.nullcontext()

  def train(self, batch_iter, num_steps, start_step=None):
    """Runs training steps, as T5X's trainer does.

    Raises:
      PreemptionError: SIGTERM was received. `train_state` is the state after
        the last step, which is the same in all processes.
    """
    if start_step is None:
      start_step = int(self.train_state.step)
    self._next_step = start_step
    return super().train(batch_iter, num_steps, start_step)

  def compile_train(self, batch):
    """Compiles the training step, with a check for SIGTERM after it.

    A check before it could save a step that is already saved, and Orbax saves
    no step twice.
    """
    super().compile_train(batch)
    compiled = self._compiled_train_step

    def run_step(train_state, batch):
      # Assigned per step: T5X assigns it after many, and by then the first
      # state has been donated.
      self.train_state, metrics = compiled(train_state, batch)
      self._next_step += 1
      if self._is_preempted():
        self.train_metrics_manager.flush()
        raise self._preemption_error()
      return self.train_state, metrics

    self._compiled_train_step = run_step
    # Not earlier: until now there is nothing to save. With several processes,
    # JAX has its own handler.
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
    if self._received:
      error.exit_code = self._received.exit_code
    return error

  def _is_preempted(self) -> bool:
    if self._received is not None:
      return self._received.signal is not None
    # Every process calls it after every step: all stop at the first step that
    # none has run yet.
    return multihost.reached_preemption(self._next_step)


def _print_line(line):
  # One write: other threads print too.
  sys.stdout.write(f'{line}\n')
  sys.stdout.flush()


def exit_code(run: Callable[[], int]) -> int:
  """Returns the exit code of a training run.

  It is 143 after SIGTERM and 130 after Ctrl-C; T5X has then saved a checkpoint,
  unless the run saves none.
  """
  try:
    return run()
  except trainer_lib.PreemptionError as error:
    # Gin appends the call's location.
    print(str(error).splitlines()[0], flush=True)
    return getattr(error, 'exit_code', PREEMPTED)
