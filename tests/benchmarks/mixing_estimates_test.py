"""Estimates of token mixing: cases as they are compiled, table, refusals."""

import importlib.util
import json
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.benchmarks import mixing, mixing_estimates

HAS_LIBTPU = importlib.util.find_spec('libtpu') is not None
SIZES = ('--lengths', '8', '--embed', '128', '--tokens', '16')


def run(*arguments):
  # libtpu is used once per process.
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  return subprocess.run(
    [sys.executable, '-m', mixing_estimates.__name__, *arguments],
    capture_output=True,
    text=True,
    env=environment,
    check=False,
  )


def test_differentiates_in_parameters_as_well():
  case = mixing.Case(lambda x, w: w * x**2, (jnp.float32(3),), trained=True)
  x = jnp.asarray([1.0, 2.0])
  # y = w x^2, and the gradient of y^2 / 2: 2 w^2 x^3, and the sum of w x^4.
  by_x, by_w = mixing.as_function(case, True)(x, case.arguments)
  np.testing.assert_allclose(by_x, [18, 144])
  assert by_w == 51


def test_table_marks_what_the_compiler_has_no_estimate_of(capsys):
  def row(direction, **figures):
    return {'shape': [2, 8, 128], 'case': 'FFT', 'direction': direction} | {
      **figures
    }

  cells = mixing.as_section(
    [
      row('forward', compiler=2e-6, roofline=5e-7, complete=False),
      row('forward+backward', compiler=None, roofline=None, complete=False),
    ],
    mixing_estimates.cells_of,
  )
  assert cells[1] == ['  FFT', '0.002+', '0.001', '-', '-']


@pytest.mark.slow
@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--topology=cpu:1'], 'only the compiler of TPUs estimates times'),
    (['--topology=v4'], 'write a TPU slice as v4:4x4x8'),
  ],
)
def test_other_devices_are_refused(arguments, message):
  done = run(*arguments, *SIZES)
  assert done.returncode and message in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(HAS_LIBTPU, reason='libtpu is installed')
def test_says_how_to_install_the_compiler():
  done = run('--topology=v4:1x1x1', *SIZES)
  assert done.returncode
  assert "pip install 'fnet_t5x[plan]'" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LIBTPU, reason='libtpu is not installed')
def test_estimates_by_the_compiler_of_the_tpu(tmp_path):
  path = tmp_path / 'estimates.json'
  done = run(*SIZES, '--cases', 'sublayer linear', '--json', str(path))
  assert done.returncode == 0, done.stderr
  assert 'sublayer linear' in done.stdout
  forward, both = json.loads(path.read_text())['rows']
  assert 0 < forward['compiler'] < both['compiler']
  assert 0 < forward['roofline'] < both['roofline']
