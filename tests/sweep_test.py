"""Sweeps: cases times seeds, resumed, compared."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from checkout import ROOT

from fnet_t5x import sweep
from fnet_t5x.benchmarks import resident_memory


def test_cases_are_names_and_bindings():
  assert sweep.parse_case("a-1: X = 'y;z'; N=2") == (
    'a-1',
    ["X = 'y;z'", 'N=2'],
  )
  assert sweep.parse_case('plain:') == ('plain', [])


@pytest.mark.parametrize(
  'text', ['no colon', ': X = 1', '../up: X = 1', '.: X=1', 'a b: X = 1']
)
def test_other_names_are_errors(text):
  with pytest.raises(ValueError, match='start with a name'):
    sweep.parse_case(text)


def test_a_case_of_no_binding_is_an_error():
  with pytest.raises(ValueError, match='is not a gin value'):
    sweep.parse_case('a: X = oops')


@pytest.mark.parametrize('text', ['', '1,', 'a', '1,1', '-1', '1.5'])
def test_seeds_that_are_none(text):
  with pytest.raises(ValueError, match='--seeds='):
    sweep.parse_seeds(text)


def test_all_cases_of_a_seed_come_first():
  runs = sweep.plan(
    pathlib.Path('out'), [('a', ['X=1']), ('b', [])], ['Y=2'], [3, 1]
  )
  assert [(run.case, run.seed) for run in runs] == [
    ('a', 3),
    ('b', 3),
    ('a', 1),
    ('b', 1),
  ]
  assert runs[0].bindings == ('Y=2', 'X=1', 'RANDOM_SEED = 3')
  assert runs[2].folder == pathlib.Path('out/a/seed_1')
  with pytest.raises(ValueError, match='each name once'):
    sweep.plan(pathlib.Path('out'), [('a', []), ('a', [])], [], [1])


def command(corpus, folder, *arguments):
  return subprocess.run(
    [
      *(sys.executable, '-m', 'fnet_t5x.sweep', f'--output={folder}'),
      '--gin_file=gin/experiments/quickstart.gin',
      *arguments,
    ],
    env={
      **os.environ,
      'XLA_FLAGS': '--xla_backend_optimization_level=0',
      'PYTHONPATH': os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
    },
    capture_output=True,
    text=True,
    check=False,
  )


_BINDINGS = {
  **resident_memory.TINY,
  'TRAIN_STEPS': 2,
  'STATS_PERIOD': 1,
  'EVAL_PERIOD': 1,
}
_TINY = (
  *(f'--gin.{name}={value!r}' for name, value in _BINDINGS.items()),
  *('--seeds=5', "--case=none: NON_ATTENTION_MIXING='none'"),
)


@pytest.mark.slow
def test_a_sweep_trains_compares_and_repeats_nothing(small_corpus, tmp_path):
  fourier = "--case=fourier: NON_ATTENTION_MIXING = 'fourier'"
  done = command(small_corpus, tmp_path / 'out', *_TINY, fourier)
  assert done.returncode == 0, done.stdout + done.stderr
  assert '2/2 fourier, seed 5' in done.stdout
  written = json.loads((tmp_path / 'out/sweep.json').read_text())
  assert list(written['cases']) == ['none', 'fourier']
  curve = written['cases']['fourier']['curves']['5']
  assert curve['steps'][-1] == 2 and len(curve['values']) > 1
  again = command(small_corpus, tmp_path / 'out', *_TINY, fourier)
  assert again.stdout == done.stdout
  # Nothing was trained a second time.
  log = (tmp_path / 'out/fourier/seed_5/log.txt').read_text()
  assert log.count('engine: ') == 1
  other = command(
    small_corpus, tmp_path / 'out', *_TINY, fourier, '--gin.TRAIN_STEPS=3'
  )
  assert other.returncode == 1
  assert 'with other gin files or bindings' in other.stderr


def test_every_case_is_checked_before_the_first_is_trained(tmp_path):
  done = command(None, tmp_path / 'out', *_TINY, '--case=typo: NON_ATTENSION=1')
  assert done.returncode == 1
  assert 'did you mean NON_ATTENTION_MIXING' in done.stderr
  assert not (tmp_path / 'out').exists()
