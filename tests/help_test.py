"""--help and typos of all commands, handled before any heavy import."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest
from checkout import ROOT

from fnet_t5x import __main__ as console

FOLDERS = {
  'benchmarks': (
    *('causal_mixing', 'checkpoints', 'collectives', 'encoders', 'engines'),
    'glue',
    'host_memory',
    *('inference', 'input_pipeline', 'mixers', 'mixing', 'mixing_estimates'),
    'quality',
    *('resident_memory', 'results'),
    *('accelerator', 'accelerator.tables'),
  ),
  'convert': ('fnet', 'hf', 'hybrid', 'scan'),
  'planning': (
    *('matched', 'measured_memory', 'parameters', 'scaling'),
    'tables',
  ),
}
MODULES = sorted(
  {
    *(m for m, _ in console.COMMANDS.values() if m not in FOLDERS),
    *(
      f'{folder}.{name}' for folder, names in FOLDERS.items() for name in names
    ),
    *('gin_root', 'tasks.pile_builder'),
  }
)
HEAVY = ('tensorflow', 'jax')


def call(*arguments):
  return subprocess.run(
    [sys.executable, '-X', 'importtime', '-m', *arguments],
    cwd=ROOT,
    env={k: v for k, v in os.environ.items() if k != 'FNET_T5X_TRACEBACK'},
    capture_output=True,
    text=True,
    check=False,
    timeout=120,
  )


def said(done):
  """Returns a command's standard error, without import times."""
  lines = done.stderr.splitlines()
  return [line for line in lines if not line.startswith('import time:')]


def imported(done):
  """Returns the top-level modules that a command imported."""
  found = re.findall(r'^import time:.*\| +([\w.]+)$', done.stderr, re.M)
  assert 'fnet_t5x' in found
  return {name.partition('.')[0] for name in found}


def runnable(folder):
  """Yields the modules of a folder that are commands."""
  for path in sorted(ROOT.glob(f'{folder}/*.py')):
    if "if __name__ == '__main__':" in path.read_text():
      yield path.stem


def test_every_command_is_tested():
  listed = {
    *runnable('fnet_t5x'),
    *(f'tasks.{name}' for name in runnable('tasks')),
    *(f'xm_launch.{name}' for name in runnable('xm_launch')),
    *(
      f'{folder}.{name}'
      for folder in ('benchmarks', 'convert', 'planning', 'runtime')
      for name in runnable(f'fnet_t5x/{folder}')
    ),
    *(
      f'benchmarks.accelerator.{name}'
      for name in runnable('fnet_t5x/benchmarks/accelerator')
    ),
  }
  assert listed - {'__main__'} <= set(MODULES)


@pytest.mark.parametrize('module', MODULES)
def test_help_comes_at_once_and_has_an_example(module):
  done = call(f'fnet_t5x.{module}', '--help')
  assert done.returncode == 0, said(done)
  assert not said(done)
  assert re.search(r'^ +(python -m |fnet-t5x )', done.stdout, re.M)
  assert not imported(done) & {*HEAVY}


@pytest.mark.parametrize('module', MODULES)
def test_typo_is_one_line_at_once(module):
  done = call(f'fnet_t5x.{module}', '--no_such_flag')
  assert done.returncode == 2, said(done)
  errors = [line for line in said(done) if line.startswith('error: ')]
  assert len(errors) == 1 and 'no_such_flag' in errors[0]
  assert len(said(done)) <= 2 and not done.stdout
  assert not imported(done) & {*HEAVY}


def test_list_of_commands_has_two_columns():
  done = call('fnet_t5x', '--help')
  assert done.returncode == 0 and not said(done)
  lines = done.stdout.partition('commands:\n')[2].splitlines()
  column = len('  quickstart  ')
  names = [line[:column].strip() for line in lines]
  assert [name for name in names if name] == list(console.COMMANDS)
  for line in lines:
    assert len(line) <= 80
    assert line[column - 1] == ' ' and line[column] != ' '
  for name, (_, summary) in console.COMMANDS.items():
    assert summary in ' '.join(line[column:] for line in lines), name
  # Without a command it prints the same.
  assert call('fnet_t5x').stdout == done.stdout


@pytest.mark.parametrize(
  'words, line',
  [
    (['tain'], 'fnet-t5x tain: no such command; did you mean train?'),
    (['xyz'], 'no such command; use quickstart, train, '),
    (['benchmark', 'mixin'], 'did you mean mixing?'),
    (['benchmark'], 'fnet-t5x benchmark: name one of mixing, '),
    (['convert', '--checkpoint=x'], 'use scan, fnet, hf, hybrid'),
  ],
)
def test_unknown_command_is_one_line(words, line):
  done = call('fnet_t5x', *words)
  assert done.returncode == 2 and not done.stdout
  (error,) = said(done)
  assert error.startswith('error: ') and line in error


@pytest.mark.parametrize(
  'words',
  [
    *([n] for n, (m, _) in console.COMMANDS.items() if m not in FOLDERS),
    ['benchmark', 'mixing'],
    ['convert', 'scan'],
  ],
  ids=' '.join,
)
def test_command_is_its_module(words):
  module, rest = console.module_of([*words, '--help'])
  assert rest == ['--help']
  assert importlib.util.find_spec(module), f'{module} is missing'


def test_commands_dispatch():
  for words, module in (
    (['plan'], 'plan'),
    (['tpu-vm'], 'xm_launch.tpu_vm'),
    (['benchmark', 'mixing'], 'benchmarks.mixing'),
  ):
    done = call('fnet_t5x', *words, '--help')
    assert done.returncode == 0
    assert done.stdout == call(f'fnet_t5x.{module}', '--help').stdout
  assert (
    'fnet-t5x benchmark mixing'
    in call(*('fnet_t5x', 'benchmark', '--help')).stdout
  )
