"""Fixtures of tests that run T5X itself; all are skipped if it is missing.

No folder of tests may be called `t5x`: it would be imported instead of T5X.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys

import jax
import pytest

TESTS = pathlib.Path(__file__).parents[1]
ROOT = TESTS.parent


def pytest_collection_modifyitems(items):
  missing = importlib.util.find_spec('t5x') is None
  for item in items:
    if pathlib.Path(__file__).parent in item.path.parents:
      item.add_marker(pytest.mark.t5x)
      item.add_marker(pytest.mark.slow)
      if missing:
        item.add_marker(
          pytest.mark.skip('T5X is not importable (README: Engines)')
        )


@pytest.fixture
def python():
  """Runs Python with T5X as the engine; returns standard output."""

  def run(*arguments, engine='t5x', devices=1, cwd=TESTS / 'golden'):
    flags = f'--xla_force_host_platform_device_count={devices}'
    places = (ROOT, TESTS, TESTS / 'helpers')
    paths = [*map(str, places), os.environ.get('PYTHONPATH', '')]
    done = subprocess.run(
      [sys.executable, *map(str, arguments)],
      cwd=cwd,
      env={
        **os.environ,
        'FNET_T5X_ENGINE': engine,
        'PYTHONPATH': os.pathsep.join(paths),
        'XLA_FLAGS': flags,
      },
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout

  return run


@pytest.fixture
def lax_ranks():
  """Allows rank promotion, which T5X uses and our tests otherwise forbid."""
  with jax.numpy_rank_promotion('allow'):
    yield
