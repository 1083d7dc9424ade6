"""The garbage collector between steps."""

import gc

import pytest

from fnet_t5x.runtime import garbage


def test_collects_after_every_so_many_batches(monkeypatch):
  events = []
  monkeypatch.setattr(gc, 'collect', lambda: events.append('collect'))
  with garbage.collected_every(2, range(5)) as batches:
    for batch in batches:
      assert not gc.isenabled()
      events.append(batch)
  assert events == [0, 1, 'collect', 2, 3, 'collect', 4]
  assert gc.isenabled()


def test_zero_leaves_it_to_python():
  with garbage.collected_every(0, 'ab') as batches:
    assert gc.isenabled()
    assert list(batches) == ['a', 'b']


def test_is_enabled_again_after_an_error():
  with pytest.raises(StopIteration), garbage.collected_every(1, ()) as batches:
    next(batches)
  assert gc.isenabled()
