"""Lock of T5X's `train` against other runs in the same folder."""

import inspect
import subprocess
import sys

import gin
import jax
import pytest

from fnet_t5x.compat import exclusive_run
from fnet_t5x.runtime import directory_lock


def train(*, model_dir: str, total_steps: int = 1) -> int:
  """Has T5X's keyword arguments; returns whether another run is excluded."""
  code = (
    'import sys; from fnet_t5x.runtime import directory_lock\n'
    'with directory_lock.held(sys.argv[1]): pass'
  )
  other = subprocess.run(
    [sys.executable, '-c', code, model_dir],
    capture_output=True,
    text=True,
    check=False,
  )
  assert ('in use by another run' in other.stderr) == bool(other.returncode)
  return 10 * total_steps + other.returncode


def test_one_run_at_a_time(tmp_path):
  folder = tmp_path / 'new/run'
  exclusive = exclusive_run.exclusive(train)
  assert exclusive(model_dir=str(folder), total_steps=2) == 21
  # The lock is released.
  assert train(model_dir=str(folder)) == 10
  with (
    directory_lock.held(str(folder)),
    pytest.raises(ValueError, match='in use by another run'),
  ):
    exclusive(model_dir=str(folder))


def test_only_the_first_process_locks(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  with directory_lock.held(str(tmp_path)):
    assert exclusive_run.exclusive(train)(model_dir=str(tmp_path)) == 11


def test_gin_sees_the_arguments_of_the_function():
  exclusive = exclusive_run.exclusive(train)
  assert inspect.getfullargspec(exclusive) == inspect.getfullargspec(train)
  gin.external_configurable(exclusive, 'exclusive_train')
  with pytest.raises(ValueError, match='total_step'):
    gin.bind_parameter('exclusive_train.total_step', 3)
