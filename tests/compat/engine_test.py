"""Choice of the engine."""

import importlib.util

import pytest

from fnet_t5x.compat import engine


def set_up(monkeypatch, chosen, installed):
  if chosen is None:
    monkeypatch.delenv('FNET_T5X_ENGINE', raising=False)
  else:
    monkeypatch.setenv('FNET_T5X_ENGINE', chosen)
  find_spec = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    'find_spec',
    lambda name: (
      (object() if installed else None) if name == 't5x' else find_spec(name)
    ),
  )


@pytest.mark.parametrize(
  ('chosen', 'installed', 'name'),
  [
    (None, False, 'runtime'),
    (None, True, 't5x'),
    ('', True, 't5x'),
    ('runtime', True, 'runtime'),
    ('t5x', True, 't5x'),
  ],
)
def test_engine_is_t5x_where_there_is_one(monkeypatch, chosen, installed, name):
  set_up(monkeypatch, chosen, installed)
  assert engine.engine_name() == name


@pytest.mark.parametrize(
  ('chosen', 'line'),
  [('none', "'none' is not an engine"), ('t5x', 'T5X is not importable')],
)
def test_engine_that_there_is_not(monkeypatch, chosen, line):
  set_up(monkeypatch, chosen, installed=False)
  with pytest.raises(ValueError, match=line):
    engine.engine_name()
