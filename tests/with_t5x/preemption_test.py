"""SIGTERM under T5X: the current step is saved, and the run resumes from it.

An interrupted and resumed run ends with exactly the same parameters, optimizer
state and data as an uninterrupted run.
"""

import random
import re
import signal
import time

import numpy as np
import pytest
import t5x_processes

TRAIN = {
  'BATCH_SIZE': 8,
  'EVAL_PERIOD': 200,
  'EVAL_STEPS': 1,
  # A random step is unlikely to be a multiple of either.
  'SAVE_PERIOD': 200,
  'STATS_PERIOD': 50,
}
HALVES = {
  # The model is sharded over pairs of devices.
  'NUM_PARTITIONS': None,
  'MODEL_PARALLEL_SUBMESH': (1, 2, 1, 1),
}


# Number of interruptions per chain of runs.
STOPS = 5


def terminate(folder, running, which, first_step=0):
  """Sends SIGTERM at a random moment of training."""
  t5x_processes.wait_for(folder, f'Training: step {first_step}')
  time.sleep(random.uniform(0, 1.5))
  running[which].send_signal(signal.SIGTERM)


def steps(model_dir):
  return sorted(
    int(path.name.removeprefix('checkpoint_'))
    for path in model_dir.glob('checkpoint_*')
  )


def stopped_at(folder, index):
  (step,) = re.findall(
    r'^stopped by SIGTERM at step (\d+)$',
    t5x_processes.log(folder, index),
    re.M,
  )
  return int(step)


@pytest.mark.parametrize(
  ('processes', 'devices', 'bindings'), [(1, 1, {}), (2, 2, HALVES)]
)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
  tmp_path, processes, devices, bindings
):
  whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'

  def run(model_dir, total):
    return t5x_processes.started(
      tmp_path,
      'fnet_t5x.train',
      'pretrain',
      processes,
      devices,
      **TRAIN,
      **bindings,
      TRAIN_STEPS=total,
      MODEL_DIR=str(model_dir),
    )

  step = 0
  for stop in range(STOPS):
    # The signal always arrives before the run ends.
    with run(stopped, 10**6) as running:
      terminate(tmp_path, running, which=stop % processes, first_step=step)
      t5x_processes.finish(tmp_path, running, code=143)
    # All processes stop at the same step, which is after the previous stop.
    before = step
    (step,) = {stopped_at(tmp_path, index) for index in range(processes)}
    assert step > before
    assert steps(stopped)[-1] == step
  total = step + 60
  for model_dir in (stopped, whole):
    with run(model_dir, total) as running:
      t5x_processes.finish(tmp_path, running)
  for part in ('target', 'state'):
    expected, found = (
      t5x_processes.state(each / f'checkpoint_{total}', part)
      for each in (whole, stopped)
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
      np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_t5xs_own_command_saves_too(tmp_path):
  """With our gin files, which name the trainer."""
  with t5x_processes.started(
    tmp_path,
    't5x.train',
    'pretrain',
    1,
    1,
    **TRAIN,
    TRAIN_STEPS=10**6,
    MODEL_DIR=str(tmp_path / 'model'),
  ) as running:
    terminate(tmp_path, running, which=0)
    # It has no exit code for this, and shows T5X's error.
    t5x_processes.finish(tmp_path, running, code=1)
  (step,) = re.findall(
    r'PreemptionError: stopped by SIGTERM at step (\d+)',
    t5x_processes.log(tmp_path),
  )
  assert steps(tmp_path / 'model')[-1] == int(step)
