"""T5X's own tests, run in place on an engine.

  python tests/with_t5x/own_tests.py --engine=runtime partitioning models

runs T5X's `partitioning_test.py` and `models_test.py`, where `t5x.partitioning`
and so on are the embedded runtime's modules, and T5X itself is out of reach.
T5X's sources must be importable. On the runtime, the tests get these aids:

* T5X's `test_utils`, and `checkpoint_importer`, which it imports;
* empty classes for T5X's managers of checkpoints, without which `utils_test`
  does not load;
* `trainer._time`, the clock that `trainer_test` replaces;
* error messages that a test compares literally count by their type, as the
  runtime has its own wording.

On both engines, packages that the tests import, but hardly use, are replaced if
they are missing: `t5`, and what needs it, and `chex`, for its one function.
"""

import argparse
import contextlib
import functools
import importlib
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import sys
import time
import types
import unittest

FILES = (
  'adafactor',
  'decoding',
  'gin_utils',
  'losses',
  'metrics',
  'models',
  'partitioning',
  'train_state',
  'trainer',
  'utils',
)
_SERVED = {
  **{
    name: f'fnet_t5x.runtime.{name}'
    for name in (*FILES, 'checkpoints', 'optimizers')
  },
  'examples': None,
  'examples.t5': None,
  'examples.t5.network': 'fnet_t5x.networks.t5',
  # The runtime's are in two modules.
  'gin_utils': 'fnet_t5x.compat.gin_utils',
  'models': 'fnet_t5x.compat.models',
}
_FROM_T5X = ('checkpoint_importer', 'test_utils')
PASSED = 'passed'


def serve_runtime(folder: pathlib.Path) -> None:
  """Makes `import t5x...` mean the runtime's modules, and nothing else.

  Args:
    folder: T5X's package, for the files that only tests need.
  """
  os.environ['FNET_T5X_ENGINE'] = 'runtime'
  # The package has no path, so that what is not served is missing.
  _add('t5x', _package('t5x'))
  for name, ours in _SERVED.items():
    name = f't5x.{name}'
    _add(name, importlib.import_module(ours) if ours else _package(name))
  checkpoints = sys.modules['t5x.checkpoints']
  for name in (
    'Checkpointer',
    'OrbaxCheckpointManagerInterface',
    'SaveBestCheckpointer',
  ):
    setattr(checkpoints, name, type(name, (), {}))
  sys.modules['t5x.trainer']._time = time.time
  for name in _FROM_T5X:
    _load(f't5x.{name}', folder / f'{name}.py')

  from absl.testing import absltest

  @contextlib.contextmanager
  def raises(self, expected_exception, expected_exception_message):
    del expected_exception_message
    with self.assertRaises(expected_exception):
      yield

  absltest.TestCase.assertRaisesWithLiteralMatch = raises


def _package(name: str) -> types.ModuleType:
  spec = importlib.machinery.ModuleSpec(name, loader=None, is_package=True)
  return importlib.util.module_from_spec(spec)


def _add(name: str, module: types.ModuleType) -> None:
  """Registers a module under a name, and in its package."""
  sys.modules[name] = module
  package, _, last = name.rpartition('.')
  if package:
    setattr(sys.modules[package], last, module)


def _load(name: str, path: pathlib.Path) -> types.ModuleType:
  """Imports a file as the module `name`."""
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  _add(name, module)
  spec.loader.exec_module(module)
  return module


def _replace_missing() -> None:
  """Replaces packages that the tests import, but hardly use."""
  import jax
  import numpy as np

  if importlib.util.find_spec('t5') is None:
    importlib.import_module('airio')
    # The last one needs t5.
    for name in ('t5', 't5.data', 't5.data.tasks', 'airio.pygrain_common'):
      _add(name, _package(name))
  if importlib.util.find_spec('chex') is None:
    _add('chex', _package('chex'))
    sys.modules['chex'].assert_trees_all_equal = functools.partial(
      jax.tree.map, np.testing.assert_array_equal
    )


class Outcomes(unittest.TestResult):
  """The outcome of each test: 'passed', 'skipped: ...' or the error."""

  def __init__(self):
    super().__init__()
    self.by_test: dict[str, str] = {}

  def addSuccess(self, test):  # noqa: N802
    self.by_test.setdefault(self._name(test), PASSED)

  def addSkip(self, test, reason):  # noqa: N802
    self.by_test[self._name(test)] = f'skipped: {reason}'

  def addError(self, test, err):  # noqa: N802
    lines = str(err[1]).strip().splitlines() or ['']
    self.by_test[self._name(test)] = f'{err[0].__name__}: {lines[0]}'

  addFailure = addError  # noqa: N815

  def _name(self, test) -> str:
    return test.id().partition('.')[2]


def outcomes(file: str, folder: pathlib.Path) -> dict[str, str]:
  """Runs one of T5X's test files; returns each test's outcome by name.

  If the file does not load, its only test is named 'import'.
  """
  name = f'{file}_test'
  try:
    module = _load(name, folder / f'{name}.py')
  except (AttributeError, ImportError) as error:
    return {'import': f'{type(error).__name__}: {error}'}
  result = Outcomes()
  unittest.defaultTestLoader.loadTestsFromModule(module).run(result)
  return result.by_test


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--engine', choices=('runtime', 't5x'), default='runtime')
  parser.add_argument('--json', type=pathlib.Path, help='file of the outcomes')
  # argparse checks an empty list, too.
  parser.add_argument('files', nargs='*', choices=[*FILES, []], metavar='FILE')
  arguments = parser.parse_args()
  spec = importlib.util.find_spec('t5x')
  if spec is None or spec.origin is None:
    parser.error('T5X is not importable: add its sources to PYTHONPATH')
  folder = pathlib.Path(spec.origin).parent
  _replace_missing()
  if arguments.engine == 'runtime':
    serve_runtime(folder)

  from absl import flags

  flags.FLAGS(sys.argv[:1])
  results = {}
  for file in arguments.files or FILES:
    results[file] = by_test = outcomes(file, folder)
    passed = sum(outcome == PASSED for outcome in by_test.values())
    print(f'{file}: {passed} of {len(by_test)} pass', flush=True)
    for test, outcome in by_test.items():
      if outcome != PASSED:
        print(f'  {test}: {outcome[:160]}', flush=True)
  if arguments.json:
    arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == '__main__':
  main()
