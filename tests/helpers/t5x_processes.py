"""Multi-process runs of T5X, as on the hosts of a pod, but on CPU.

Processes communicate through jax.distributed; on CPU, collectives are gloo's.
"""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint
from flax import traverse_util
from golden import runs

HELPERS = pathlib.Path(__file__).parent
TESTS = HELPERS.parent
ROOT = TESTS.parent


def free_port() -> int:
  with socket.socket() as bound:
    bound.bind(('localhost', 0))
    return bound.getsockname()[1]


@contextlib.contextmanager
def started(folder, module, run, processes, devices, **bindings):
  """Yields the processes of a run of the small hybrid; kills them at the end.

  Args:
    folder: folder of the logs, `log_0`, `log_1`, ...
    module: the command.
    run: name of a file in gin/runs/.
    processes: number of processes.
    devices: number of devices per process.
    **bindings: macros.
  """
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
  paths = [*map(str, (ROOT, TESTS, HELPERS)), os.environ.get('PYTHONPATH', '')]
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
  running = []
  with contextlib.ExitStack() as stack:
    for index in range(processes):
      distributed = [
        '--multiprocess_gpu',
        f'--coordinator_address={address}',
        f'--process_count={processes}',
        f'--process_index={index}',
      ]
      log = stack.enter_context((folder / f'log_{index}').open('w'))
      running.append(
        subprocess.Popen(
          [*command, *(distributed if processes > 1 else [])],
          cwd=folder,
          env=environment,
          stdout=log,
          stderr=subprocess.STDOUT,
        )
      )
      stack.callback(running[-1].kill)
    yield running


def finish(folder, running, code=0) -> None:
  """Waits for the processes, and checks their exit codes."""
  codes = [process.wait(timeout=400) for process in running]
  logs = [log(folder, index)[-3000:] for index in range(len(running))]
  assert codes == [code] * len(running), '\n'.join(logs)


def log(folder, index=0) -> str:
  return (folder / f'log_{index}').read_text()


def wait_for(folder, text, index=0) -> None:
  """Waits until a process has printed a text."""
  for _ in range(9000):
    if text in log(folder, index):
      return
    time.sleep(0.02)
  raise AssertionError(f'no {text!r} in {log(folder, index)[-3000:]}')


def state(checkpoint, part='target') -> dict[str, np.ndarray]:
  """Returns part of a checkpoint's state, read by this process alone."""
  checkpointer = orbax.checkpoint.PyTreeCheckpointer()
  tree = checkpointer.metadata(checkpoint / 'state').item_metadata.tree
  as_numpy = orbax.checkpoint.RestoreArgs(restore_type=np.ndarray)
  restored = checkpointer.restore(
    checkpoint / 'state', restore_args=jax.tree.map(lambda _: as_numpy, tree)
  )
  return traverse_util.flatten_dict(restored[part], sep='/')
