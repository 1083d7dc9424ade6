"""Two processes of four devices each train as one process of eight does.

They talk as the hosts of a pod do, through jax.distributed; on CPU the
collectives are gloo's.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint
import pytest
from flax import traverse_util
from golden import runs

TESTS = pathlib.Path(__file__).parents[1]
ROOT = TESTS.parent
# Neither shuffled nor packed, so that a global batch holds the same rows
# however many processes read them; every two devices hold a model in halves.
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


def free_port():
  with socket.socket() as bound:
    bound.bind(('localhost', 0))
    return bound.getsockname()[1]


def launch(folder, module, run, processes, devices, **bindings):
  """Runs a command as `processes` processes of `devices` devices each."""
  (folder / 'small.gin').write_text(runs.model_gin('fnet_t5'))
  command = [
    sys.executable,
    '-m',
    module,
    f'--gin_search_paths={ROOT},{folder}',
    '--gin_file=small.gin',
    f'--gin_file=gin/runs/{run}.gin',
    *(f'--gin.{name}={value!r}' for name, value in bindings.items()),
  ]
  paths = [str(ROOT), str(TESTS), os.environ.get('PYTHONPATH', '')]
  flags = f'--xla_force_host_platform_device_count={devices}'
  environment = {
    **os.environ,
    'FNET_T5X_ENGINE': 't5x',
    'JAX_CPU_COLLECTIVES_IMPLEMENTATION': 'gloo',
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': os.pathsep.join(paths),
    'XLA_FLAGS': flags,
  }
  address = f'localhost:{free_port()}'
  started = []
  for index in range(processes):
    distributed = [
      '--multiprocess_gpu',
      f'--coordinator_address={address}',
      f'--process_count={processes}',
      f'--process_index={index}',
    ]
    log = (folder / f'log_{index}').open('w+')
    started.append(
      subprocess.Popen(
        [*command, *(distributed if processes > 1 else [])],
        cwd=folder,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
      )
    )
  try:
    codes = [process.wait(timeout=400) for process in started]
  finally:
    for process in started:
      process.kill()
  logs = [
    (folder / f'log_{index}').read_text()[-3000:] for index in range(processes)
  ]
  assert codes == [0] * processes, '\n'.join(logs)


def weights(checkpoint):
  """A checkpoint's weights by name, read by this one process."""
  checkpointer = orbax.checkpoint.PyTreeCheckpointer()
  tree = checkpointer.metadata(checkpoint / 'state').item_metadata.tree
  as_numpy = orbax.checkpoint.RestoreArgs(restore_type=np.ndarray)
  state = checkpointer.restore(
    checkpoint / 'state', restore_args=jax.tree.map(lambda _: as_numpy, tree)
  )
  return traverse_util.flatten_dict(state['target'], sep='/')


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
  # Stopped and started again: both processes save, both restore.
  train(two, 2, 2)
  train(two, 2, 4)
  np.testing.assert_allclose(
    runs.losses(str(two)), runs.losses(str(one)), rtol=1e-5
  )
  expected, saved = (weights(run / 'checkpoint_4') for run in (one, two))
  assert saved.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(saved[name], value, rtol=1e-4, atol=1e-5)

  # T5X's own commands for the rest cannot join processes; ours can.
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
