"""Choice of the engine."""

import importlib.machinery
import importlib.util

import pytest

from fnet_t5x.compat import engine

SPEC = importlib.machinery.ModuleSpec(
  't5x', None, origin='/site/t5x/__init__.py'
)


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
      (SPEC if installed else None) if name == 't5x' else find_spec(name)
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
def test_engine_is_t5x_if_importable(monkeypatch, chosen, installed, name):
  set_up(monkeypatch, chosen, installed)
  assert engine.engine_name() == name


@pytest.mark.parametrize(
  ('chosen', 'line'),
  [('none', "'none' is not an engine"), ('t5x', 'T5X is not importable')],
)
def test_missing_engine_is_named(monkeypatch, chosen, line):
  set_up(monkeypatch, chosen, installed=False)
  with pytest.raises(ValueError, match=line):
    engine.engine_name()


def test_a_clone_of_t5x_in_the_current_folder_is_not_t5x(tmp_path, monkeypatch):
  """Python takes the repository's folder for a package without __init__.py."""
  (tmp_path / 't5x/t5x').mkdir(parents=True)
  (tmp_path / 't5x/t5x/__init__.py').write_text('')
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.delenv('FNET_T5X_ENGINE', raising=False)
  assert importlib.util.find_spec('t5x') is not None
  assert engine.engine_name() == 'runtime'


def test_commands_of_t5x_end_if_the_engine_is_the_runtime(monkeypatch):
  set_up(monkeypatch, 'runtime', installed=True)
  with pytest.raises(SystemExit, match=r'-m fnet_t5x.train, or unset') as end:
    engine.check_command('/site/t5x/train.py')
  assert '\n' not in str(end.value)
  for ours in ('/site/fnet_t5x/train.py', None):
    engine.check_command(ours)
