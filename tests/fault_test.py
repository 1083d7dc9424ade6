"""Runs killed, or with a full disk, at any call: resume is bit-exact."""

import json
import os
import pathlib
import random
import re
import subprocess
import sys

import faults
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from checkout import ROOT

from fnet_t5x.runtime import reporting

_HELPERS = pathlib.Path(faults.__file__).parent
_LAST = 'checkpoint_8'


class Runs:
  """Starter of runs, each in its own process."""

  def __init__(self, library: pathlib.Path | None):
    environment = {
      **os.environ,
      'PYTHONPATH': os.pathsep.join([str(_HELPERS), str(ROOT)]),
      'XLA_FLAGS': '--xla_backend_optimization_level=0',
    }
    if library:
      environment['LD_PRELOAD'] = str(library)
    self.library = library and str(library)
    self._server = subprocess.Popen(
      [sys.executable, _HELPERS / 'faulty_runs.py'],
      env=environment,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )

  def run(self, model_dir, in_c, number=0, kill=False) -> tuple[int, str]:
    """Trains in `model_dir`, and returns the exit code and the output.

    Args:
      model_dir: a new folder, or that of a run to resume.
      in_c: whether calls are those of all libraries, or of Python code.
      number: number of the call with the fault; 0 for none.
      kill: whether the fault kills the process; otherwise the disk is full from
        this call on.
    """
    log = model_dir.with_suffix('.log')
    log.unlink(missing_ok=True)
    request = {
      'model_dir': str(model_dir),
      'log': str(log),
      'number': number,
      'kill': kill,
      'library': self.library if in_c else None,
    }
    self._server.stdin.write(json.dumps(request) + '\n')
    self._server.stdin.flush()
    return json.loads(self._server.stdout.readline()), log.read_text()

  def close(self):
    self._server.stdin.close()
    self._server.wait(timeout=60)


class Chains:
  """Runs with faults, to be compared with one without."""

  def __init__(self, runs, folder, in_c):
    self._runs = runs
    self._folder = folder
    self._in_c = in_c
    self._whole = folder / 'whole'
    code, log = runs.run(self._whole, in_c)
    assert code == 0, log
    self.calls = int(re.search(r'calls: (\d+)', log)[1])

  def check(self, seed: int, kill: bool, faults: int = 2) -> None:
    """Injects a fault into a run, resumes the run, and compares its files."""
    rng = random.Random(seed)
    model_dir = self._folder / f'{"kill" if kill else "full"}_{seed}'
    for _ in range(faults):
      number = rng.randint(1, self.calls)
      code, log = self._runs.run(model_dir, self._in_c, number, kill)
      if kill:
        assert code in (-9, 0), log
      else:
        assert code in (1, 0), log
        assert code == 0 or is_one_line(log), (number, log)
    code, log = self._runs.run(model_dir, self._in_c)
    assert code == 0, log
    rows = [reporting.read_metrics(d) for d in (model_dir, self._whole)]
    assert without_times(rows[0]) == without_times(rows[1])
    states = [state(d / _LAST) for d in (model_dir, self._whole)]
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert not list(model_dir.glob('*tmp*'))


def is_one_line(log) -> bool:
  """Whether the output is one line about a full disk."""
  said = [line for line in log.splitlines() if not line.startswith('WARNING')]
  errors = [line for line in said if line.startswith('error: ')]
  return (
    len(errors) == 1
    and bool(re.search(r' is full|cannot be written', errors[0]))
    and 'Traceback' not in log
    and 'ERROR:' not in log
  )


def state(checkpoint):
  return ocp.PyTreeCheckpointer().restore(checkpoint / 'state')


def without_times(rows):
  return [
    {k: v for k, v in row.items() if not k.startswith('timing/')}
    for row in rows
  ]


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  runs = Runs(faults.compile_library(tmp_path_factory.mktemp('library')))
  yield runs
  runs.close()


@pytest.fixture(scope='module')
def in_python(runs, tmp_path_factory):
  return Chains(runs, tmp_path_factory.mktemp('in_python'), in_c=False)


@pytest.fixture(scope='module')
def in_c(runs, tmp_path_factory):
  if runs.library is None:
    pytest.skip('no C compiler')
  return Chains(runs, tmp_path_factory.mktemp('in_c'), in_c=True)


@pytest.mark.slow
@pytest.mark.parametrize(('seed', 'kill'), [(0, True), (1, False)])
def test_fault_in_python_costs_nothing(in_python, seed, kill):
  in_python.check(seed, kill, faults=1)


@pytest.mark.slow
@pytest.mark.parametrize('kill', [True, False])
@pytest.mark.parametrize('seed', range(2, 12))
def test_any_fault_in_python_costs_nothing(in_python, seed, kill):
  in_python.check(seed, kill)


@pytest.mark.slow
@pytest.mark.parametrize('kill', [True, False])
@pytest.mark.parametrize('seed', range(10))
def test_any_fault_in_any_library_costs_nothing(in_c, seed, kill):
  in_c.check(seed, kill)
