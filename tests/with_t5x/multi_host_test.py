"""Two processes of four devices train like one process of eight."""

import json

import numpy as np
import pytest
import t5x_processes
from golden import runs

# Neither shuffled nor packed, so that a global batch has the same rows for any
# number of processes; the model is sharded over pairs of devices.
TRAIN = {
  'BATCH_SIZE': 8,
  'SHUFFLE_TRAIN_EXAMPLES': False,
  'PACK': False,
  'NUM_PARTITIONS': None,
  'MODEL_PARALLEL_SUBMESH': (1, 2, 1, 1),
  'EVAL_PERIOD': 2,
  'EVAL_STEPS': 1,
  'SAVE_PERIOD': 2,
  'STATS_PERIOD': 1,
}


def launch(folder, module, run, processes, devices, **bindings):
  """Runs a command as `processes` processes of `devices` devices each."""
  with t5x_processes.started(
    folder, module, run, processes, devices, **bindings
  ) as running:
    t5x_processes.finish(folder, running)


def test_two_processes_do_as_one(tmp_path):
  one, two = tmp_path / 'one', tmp_path / 'two'

  def train(model_dir, processes, steps):
    launch(
      tmp_path,
      't5x.train',
      'pretrain',
      processes,
      8 // processes,
      **TRAIN,
      TRAIN_STEPS=steps,
      MODEL_DIR=str(model_dir),
    )

  train(one, 1, 4)
  # Interrupted and resumed: both processes save, and both restore.
  train(two, 2, 2)
  train(two, 2, 4)
  np.testing.assert_allclose(
    runs.losses(str(two)), runs.losses(str(one)), rtol=1e-5
  )
  expected, saved = (
    t5x_processes.state(run / 'checkpoint_4') for run in (one, two)
  )
  assert saved.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(saved[name], value, rtol=1e-4, atol=1e-5)

  # T5X's other commands do not support several processes; ours do.
  def finished(mode, processes):
    output = tmp_path / f'{mode}_{processes}'
    launch(
      tmp_path,
      f'fnet_t5x.{mode}',
      mode,
      processes,
      4,
      CHECKPOINT_PATH=str(two / 'checkpoint_4'),
      **{f'{mode.upper()}_OUTPUT_DIR': str(output)},
    )
    kind = {'eval': 'metrics.jsonl', 'infer': 'predict.jsonl-00000-of-00001'}
    (path,) = output.glob(f'**/{runs.TASK}-{kind[mode]}')
    return [json.loads(line) for line in path.read_text().splitlines()]

  expected, metrics = finished('eval', 1), finished('eval', 2)
  assert metrics[-1] == pytest.approx(expected[-1], rel=1e-4)
  written = finished('infer', 2)
  assert len(written) == 200
  assert written == finished('infer', 1)
