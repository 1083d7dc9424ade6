"""Joining the processes of a run: what is refused before anything starts."""

import os
import pathlib
import subprocess
import sys

import pytest

import fnet_t5x

ROOT = pathlib.Path(fnet_t5x.__file__).parents[1]


def train(folder, *arguments, engine):
  """Runs the command, without starting it; returns its error line."""
  # A T5X that can be found is all that the choice of the engine asks for.
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


@pytest.mark.parametrize(
  'engine, arguments, message',
  [
    ('runtime', (), "the embedded runtime is one process; several are T5X's"),
    ('t5x', (), 'Give --coordinator_address=HOST:PORT, --process_count'),
    ('t5x', ('--coordinator_address=localhost:1',), 'Give --coordinator_addr'),
  ],
)
def test_processes_that_cannot_join(tmp_path, engine, arguments, message):
  assert message in train(tmp_path, *arguments, engine=engine)
