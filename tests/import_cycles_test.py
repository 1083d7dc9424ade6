"""Folders of the package import one another in one direction only."""

import ast
import pathlib
from graphlib import CycleError, TopologicalSorter

import pytest

import fnet_t5x

PACKAGE = pathlib.Path(fnet_t5x.__file__).parent
# Imported as fnet_t5x.tasks.
TASKS = PACKAGE.parent / 'tasks'


def imported(path):
  """Yields the dotted names that a module imports, wherever it does so."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def imports_of_folders():
  """Returns the folders that each folder imports; root modules are in none."""
  folders = {each.name: each for each in PACKAGE.iterdir() if each.is_dir()}
  folders['tasks'] = TASKS
  found = {}
  for name, folder in folders.items():
    found[name] = {
      parts[1]
      for path in folder.rglob('*.py')
      for parts in (module.split('.') for module in imported(path))
      if parts[0] == 'fnet_t5x' and len(parts) > 1 and parts[1] in folders
    } - {name}
  return found


def test_folders_have_no_cycles():
  found = imports_of_folders()
  assert {'fourier', 'layers'} <= found['networks']
  list(TopologicalSorter(found).static_order())


def test_a_cycle_is_found():
  found = imports_of_folders()
  found['fourier'].add('networks')
  with pytest.raises(CycleError):
    list(TopologicalSorter(found).static_order())
