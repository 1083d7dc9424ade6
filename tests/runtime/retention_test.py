"""The last checkpoint with a sound loss outlives those that follow it."""

import contextlib

import jax
import jax.numpy as jnp
import pytest

from fnet_t5x.runtime import checkpoints


class State:
  def __init__(self, step):
    self.step = step

  def state_dict(self):
    return {'target': {'x': jnp.ones(3)}, 'state': {'step': self.step}}


def saved(folder, losses, keep, known=None):
  manager = checkpoints.CheckpointManager(
    str(folder), keep, create=True, losses=known
  )
  with contextlib.closing(manager):
    for step, loss in losses.items():
      manager.save(State(jax.device_put(step)), None, loss=loss)
  return checkpoints.steps(str(folder))


@pytest.mark.parametrize(
  ('keep', 'losses', 'kept'),
  [
    # Same as without losses.
    (2, {1: None, 2: None, 3: None}, [2, 3]),
    (2, {1: 5.0, 2: 4.0, 3: 3.9, 4: 4.1}, [3, 4]),
    (None, {1: 5.0, 2: 1e9, 3: 1e9}, [1, 2, 3]),
    # Damaged checkpoints never push out good ones, however many follow.
    (2, {1: 4.0, 2: 3.9, 3: 2e18, 4: 1e18, 5: 1e17}, [1, 2, 4, 5]),
    (1, {1: 4.0, 2: 11.0, 3: 10.0}, [1, 3]),
    # Until the loss recovers.
    (2, {1: 4.0, 2: 3.9, 3: 2e18, 4: 1e18, 5: 5.0, 6: 4.2}, [5, 6]),
    # Near zero a loss may grow many times over.
    (1, {1: 0.001, 2: 0.5}, [2]),
    (1, {1: 3.0, 2: 5.9}, [2]),
  ],
)
def test_checkpoints_that_stay(tmp_path, keep, losses, kept):
  assert saved(tmp_path, losses, keep) == kept


def test_a_run_that_goes_on_knows_the_losses_before(tmp_path, capfd):
  """Also where it went on from the damage, and was stopped once more.

  That of checkpoint_38 was reported before its file was damaged: 19 is the one
  that is good.
  """
  before = {19: 4.0, 38: 3.9}
  saved(tmp_path, before, 2)
  assert not capfd.readouterr().out
  assert saved(tmp_path, {57: 2e18}, 2, before) == [19, 38, 57]
  assert 'far above that of checkpoint_19, kept' in capfd.readouterr().out
  before[57] = 2e18
  assert saved(tmp_path, {76: 1e18}, 2, before) == [19, 38, 57, 76]
  assert 'far above that of checkpoint_19 and checkpoint_38, kept' in (
    capfd.readouterr().out
  )
  before[76] = 1e18
  assert saved(tmp_path, {95: 4.4}, 2, before) == [76, 95]
