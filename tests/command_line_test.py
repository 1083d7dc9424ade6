"""Command lines of runs: errors before any heavy import, and --list_macros."""

import os
import re
import subprocess
import sys
import types

import jax
import pytest
from absl import flags
from checkout import ROOT

from fnet_t5x import command_line


def train(folder, *arguments, engine):
  """Runs the command, which must fail, and returns its error line."""
  # The choice of the engine only requires that T5X can be found.
  (folder / 't5x').mkdir()
  (folder / 't5x/__init__.py').write_text('')
  paths = [str(ROOT), *sys.path[1:], str(folder)]
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'fnet_t5x.train', '--multiprocess_gpu'),
      *('--gin_file=gin/experiments/quickstart.gin', *arguments),
    ],
    cwd=folder,
    env={
      **os.environ,
      'FNET_T5X_ENGINE': engine,
      'PYTHONPATH': os.pathsep.join(paths),
    },
    capture_output=True,
    text=True,
    check=False,
    timeout=60,
  )
  assert done.returncode == 1
  assert 'Traceback' not in done.stderr
  return done.stderr.partition('error: ')[2].splitlines()[0]


@pytest.mark.slow
@pytest.mark.parametrize(
  'engine, arguments, message',
  [
    (
      'runtime',
      (),
      '--multiprocess_gpu: the embedded runtime runs in one process',
    ),
    ('t5x', (), 'Give --coordinator_address=HOST:PORT, --process_count'),
    ('t5x', ('--coordinator_address=localhost:1',), 'Give --coordinator_addr'),
  ],
)
def test_processes_that_cannot_join(tmp_path, engine, arguments, message):
  assert message in train(tmp_path, *arguments, engine=engine)


@pytest.mark.parametrize('timeout', [None, 7])
def test_time_to_wait_for_other_processes(monkeypatch, timeout):
  given = types.SimpleNamespace(
    coordinator_address='localhost:1',
    process_count=2,
    process_index=1,
    initialization_timeout=timeout,
  )
  called = []
  monkeypatch.setattr(flags, 'FLAGS', given)
  # Joining needs another process.
  monkeypatch.setattr(
    jax.distributed, 'initialize', lambda *a, **k: called.append((a, k))
  )
  command_line.join_processes(uses_t5x=True)
  expected = {} if timeout is None else {'initialization_timeout': timeout}
  assert called == [(('localhost:1', 2, 1), expected)]


def run(folder, *arguments, module='train'):
  return subprocess.run(
    [
      sys.executable,
      '-X',
      'importtime',
      '-m',
      f'fnet_t5x.{module}',
      *arguments,
    ],
    cwd=folder,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
    timeout=60,
  )


def imported(done) -> set[str]:
  """Top-level modules that a process imported."""
  names = re.findall(r'^import time:.*\| +(\S+)$', done.stderr, re.M)
  return {name.partition('.')[0] for name in names}


YOUR_TEXT = '--gin_file=gin/experiments/your_text.gin'
SMALL = (
  '--gin_file=gin/models/fnet_t5_small.gin',
  '--gin_file=gin/objectives/span_corruption.gin',
  '--gin_file=gin/runs/pretrain.gin',
)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('arguments', 'code', 'message'),
  [
    (['--gin_fil=x'], 2, "Unknown command line flag 'gin_fil'"),
    ([*SMALL, '--gin.BATCHSIZE=1'], 1, 'did you mean BATCH_SIZE'),
    (
      [*SMALL, '--gin.TEXT_FILES="x"'],
      1,
      'add --gin_file=gin/sources/text.gin',
    ),
    ([*SMALL, '--model_dir=x'], 1, 'TRAIN_STEPS not set'),
    ([YOUR_TEXT], 1, 'MODEL_DIR not set'),
    (['--gin_file=gin/none.gin'], 1, 'gin file gin/none.gin: in none of'),
    ([*SMALL, 'word'], 1, 'no such argument: word'),
  ],
)
def test_errors_come_before_anything_heavy(tmp_path, arguments, code, message):
  done = run(tmp_path, *arguments)
  assert done.returncode == code
  errors = re.findall(r'^error: .*$', done.stderr, re.M)
  assert len(errors) == 1
  assert message in errors[0]
  assert imported(done).isdisjoint({'tensorflow', 'jax', 'seqio', 'flax'})
  assert not list(tmp_path.iterdir())


def test_list_macros(tmp_path):
  done = run(
    tmp_path,
    YOUR_TEXT,
    '--model_dir=~/x',
    '--gin.BATCH_SIZE=3',
    '--list_macros',
  )
  assert done.returncode == 0, done.stderr
  rows = {
    line.split()[0]: line.split(maxsplit=1)[1]
    for line in done.stdout.splitlines()
  }
  assert rows['BATCH_SIZE'].startswith('3 ')
  assert repr(os.path.expanduser('~/x')) in rows['MODEL_DIR']
  assert rows['TEXT_FILES'].startswith('None')
  assert 'gin/experiments/your_text.gin' in rows['TRAIN_STEPS']
  assert 'gin/runs/training.gin' in rows['KEEP_CHECKPOINTS']
  assert imported(done).isdisjoint({'tensorflow', 'jax', 'seqio', 'flax'})
