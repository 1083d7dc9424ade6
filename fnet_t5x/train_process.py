"""A training run in a process of its own, trained once."""

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence

from fnet_t5x import command_line

LOG = 'log.txt'
_SETTINGS = 'run_settings.json'
_FINISHED = 'run_finished.json'


class TrainingError(ValueError):
  """A run ended with an error, which the message names."""


def train_once(
  folder: pathlib.Path,
  gin_files: Sequence[str],
  bindings: Sequence[str],
  arguments: Sequence[str] = (),
) -> bool:
  """Trains a run, or resumes it; does nothing if it is finished.

  What the run prints is appended to `log.txt` in its folder.

  Args:
    folder: the run's MODEL_DIR.
    gin_files: its gin files.
    bindings: its bindings, `NAME = VALUE`, beside MODEL_DIR.
    arguments: further arguments of `fnet_t5x.train`, such as places of data,
      which may differ when the run is resumed.

  Returns:
    Whether it was trained.

  Raises:
    ValueError: the folder has a run with other files or bindings.
    TrainingError: training ended with an error.
  """
  settings = {'gin_files': [*gin_files], 'bindings': [*bindings]}
  known, finished = folder / _SETTINGS, folder / _FINISHED
  if known.exists() and json.loads(known.read_text()) != settings:
    raise ValueError(
      f'{folder}: a run with other gin files or bindings; choose another '
      '--output, or remove that folder'
    )
  if finished.exists():
    return False
  folder.mkdir(parents=True, exist_ok=True)
  known.write_text(json.dumps(settings, indent=2) + '\n')
  command = [
    *(sys.executable, '-m', 'fnet_t5x.train', *arguments),
    *(f'--gin_file={each}' for each in gin_files),
    *(f'--gin_bindings={each}' for each in bindings),
    f'--model_dir={folder}',
  ]
  began = time.perf_counter()
  with (folder / LOG).open('a', encoding='utf-8') as log:
    done = subprocess.run(
      command,
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=subprocess.STDOUT,
      env={**os.environ, command_line.COMMANDS_VARIABLE: '0'},
      check=False,
    )
  if done.returncode:
    raise TrainingError(
      f'{_error_of(folder / LOG)} (all it printed is in {folder / LOG})'
    )
  seconds = round(time.perf_counter() - began, 1)
  finished.write_text(json.dumps({'seconds': seconds}) + '\n')
  return True


def _error_of(log: pathlib.Path) -> str:
  """Returns a run's error, or the last line that it printed."""
  lines = log.read_text(encoding='utf-8', errors='replace').splitlines()
  errors = [line for line in lines if line.startswith('error: ')]
  last = (errors or lines or ['ended without a word'])[-1]
  return last.removeprefix('error: ')
