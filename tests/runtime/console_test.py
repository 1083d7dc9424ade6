"""Suppressed echoes of errors; other errors are printed."""

import sys
import types

import pytest

from fnet_t5x.runtime import damaged_checkpoints, disk_space

CLOSED_LOOP = RuntimeError('Event loop is closed')
OTHER_READ = Exception('Encountered error while reading array index: (0,).')
OTHER = ValueError('of the user')


@pytest.fixture
def printed(monkeypatch):
  """Returns the errors that reach the previous hook."""
  errors = []
  monkeypatch.setattr(
    sys,
    'unraisablehook',
    lambda unraisable: errors.append(unraisable.exc_value),
  )
  return errors


def happen(*errors):
  for error in errors:
    sys.unraisablehook(types.SimpleNamespace(exc_value=error))


def damage(folder):
  with (
    pytest.raises(damaged_checkpoints.DamagedError),
    damaged_checkpoints.reading(folder),
  ):
    raise OTHER_READ


def test_echoes_of_a_damaged_checkpoint(printed, tmp_path):
  happen(OTHER_READ)
  assert printed == [OTHER_READ]
  for _ in range(3):
    damage(tmp_path)
  happen(OTHER_READ, OTHER, None)
  assert printed == [OTHER_READ, OTHER, None]


def test_echoes_within_a_run(printed, tmp_path):
  # A run restores its checkpoint within `exhaustion_named`.
  with disk_space.exhaustion_named(str(tmp_path)):
    damage(tmp_path)
    happen(CLOSED_LOOP, OTHER_READ, OTHER)
  assert printed == [OTHER]
  happen(CLOSED_LOOP)
  assert printed == [OTHER, CLOSED_LOOP]
