"""Stopping by SIGTERM, with JAX's real processes and a stand-in for T5X.

The stand-in has what the trainer relies on: a loop that assigns the state only
after many steps, and donates the previous one.
`tests/with_t5x/preemption_test.py` runs T5X itself.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from checkout import ROOT

T5X_TRAINER = """
import threading
import jax

class PreemptionError(Exception):
  pass

class Manager:
  def flush(self):
    print('flushed', flush=True)

class Trainer:
  def __init__(self, state):
    self.train_state = state
    self.train_metrics_manager = Manager()

  def compile_train(self, batch):
    self._compiled_train_step = jax.jit(
      lambda state, batch: (state + batch, state), donate_argnums=0
    )

  def train(self, batches, num_steps, start_step=None):
    state = self.train_state
    for _ in range(num_steps):
      state, metrics = self._compiled_train_step(state, next(batches))
    self.train_state = state

  def close(self):
    pass
"""
RUN = """
import itertools, os, signal, sys, time
import jax, jax.numpy as jnp
index, port, total = map(int, sys.argv[1:])
from fnet_t5x import stop_signals
# As in fnet_t5x.train, before anything else.
stop_signals.end_process()
if port:
  jax.distributed.initialize(f'localhost:{port}', 2, index)
from fnet_t5x.compat import preemption

def batches():
  for count in itertools.count():
    # One process is ahead of the other, by less than the notification takes.
    time.sleep(0.005 + 0.002 * index)
    if count == 3:
      print('training', flush=True)
    yield jnp.ones(())

def run():
  trainer = preemption.Trainer(jnp.zeros(()))
  trainer.compile_train(None)
  step, data = 0, batches()
  try:
    while step < total:
      trainer.train(data, 1000, step)
      step += 1000
  except preemption.trainer_lib.PreemptionError:
    # The state that an emergency checkpoint would save.
    print('state', int(trainer.train_state), flush=True)
    raise
  trainer.close()
  print('closed', flush=True)
  time.sleep(60)
  return 0

sys.exit(preemption.exit_code(run))
"""


@pytest.fixture
def start(tmp_path):
  """Yields a function that starts processes; kills them afterwards."""
  (tmp_path / 't5x').mkdir()
  (tmp_path / 't5x/__init__.py').write_text('')
  (tmp_path / 't5x/trainer.py').write_text(T5X_TRAINER)
  (tmp_path / 'run.py').write_text(RUN)
  running = []

  def started(processes, total=10**6):
    with socket.socket() as bound:
      bound.bind(('localhost', 0))
      port = bound.getsockname()[1] if processes > 1 else 0
    paths = [str(tmp_path), str(ROOT), *sys.path[1:]]
    for index in range(processes):
      running.append(
        subprocess.Popen(
          [sys.executable, 'run.py', str(index), str(port), str(total)],
          cwd=tmp_path,
          env={
            **os.environ,
            'JAX_PLATFORMS': 'cpu',
            'JAX_CPU_COLLECTIVES_IMPLEMENTATION': 'gloo',
            'PYTHONPATH': os.pathsep.join(paths),
          },
          stdout=subprocess.PIPE,
          text=True,
        )
      )
    return running

  yield started
  for process in running:
    process.kill()


STOPPED = {signal.SIGTERM: ('SIGTERM', 143), signal.SIGINT: ('Ctrl-C', 130)}


# With several processes, only SIGTERM is handled.
@pytest.mark.slow
@pytest.mark.parametrize(
  ('processes', 'number'),
  [(1, signal.SIGTERM), (1, signal.SIGINT), (2, signal.SIGTERM)],
)
def test_all_stop_after_the_same_step(start, processes, number):
  running = start(processes)
  for process in running:
    assert process.stdout.readline() == 'training\n'
  time.sleep(0.2)
  running[-1].send_signal(number)
  said = [process.communicate(timeout=60)[0] for process in running]
  name, code = STOPPED[number]
  assert [process.returncode for process in running] == [code] * processes
  # Every batch is 1, so that the state is the number of steps.
  assert len(set(said)) == 1, said
  # A thread announces it at any moment, even within another line.
  rest = re.sub(r'(SIGTERM: )?stopping after the [^\n]*', '', said[0])
  match = re.fullmatch(
    rf'flushed state (\d+) stopped by {name} at step (\d+)',
    ' '.join(rest.split()),
  )
  assert match, said
  assert match[1] == match[2]
  assert int(match[1]) > 3


@pytest.mark.slow
def test_finished_run_restores_the_signal_handler(start):
  (process,) = start(1, total=1000)
  assert process.stdout.readline() == 'training\n'
  assert process.stdout.readline() == 'closed\n'
  # There are no more steps to wait for.
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=10) == 143
