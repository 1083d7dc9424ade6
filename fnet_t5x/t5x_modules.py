"""T5X's modules in gin files, served by the embedded runtime.

Gin files written for T5X import `t5x.utils`, `t5x.models` and so on. If the
embedded runtime is the engine, it has modules of the same names, and gin
resolves these imports to them: only for the files that it parses, so that
`import t5x` in Python remains what it is. Whatever is not in the table is
refused by name, even if T5X is installed: objects of the two engines do not
mix.
"""

import contextlib
import functools
import importlib
import types
from collections.abc import Iterator, Mapping

from gin import config, config_parser

PACKAGE = 't5x'
# T5X's module, and ours. A run's saved configuration names ours.
MODULES = {
  't5x.adafactor': 'fnet_t5x.compat.adafactor',
  't5x.checkpoints': 'fnet_t5x.runtime.checkpoints',
  't5x.decoding': 'fnet_t5x.compat.decoding',
  't5x.examples.scalable_t5.network': 'fnet_t5x.networks.t5',
  't5x.examples.t5.network': 'fnet_t5x.networks.t5',
  't5x.gin_utils': 'fnet_t5x.compat.gin_utils',
  't5x.losses': 'fnet_t5x.runtime.losses',
  't5x.metrics': 'fnet_t5x.compat.metrics',
  't5x.models': 'fnet_t5x.compat.models',
  't5x.optimizers': 'fnet_t5x.compat.optimizers',
  't5x.partitioning': 'fnet_t5x.compat.partitioning',
  't5x.train_state': 'fnet_t5x.runtime.train_state',
  't5x.trainer': 'fnet_t5x.compat.trainer',
  't5x.utils': 'fnet_t5x.compat.utils',
}
# What to use instead of modules that the runtime lacks, by prefix.
_INSTEAD = {
  't5x.contrib.gpu': 'use t5x/examples/t5/...',
  't5x.contrib.moe': 'mixtures of experts need T5X',
  't5x.examples.decoder_only': 'use gin/models/gpt2_*.gin',
  't5x.export_lib': 'use python -m fnet_t5x.export',
}


class UnservedError(ImportError):
  """A gin file imports a module of T5X that the runtime does not have."""


def is_t5x(module: str) -> bool:
  """Returns whether a module's name is that of T5X or in it."""
  return f'{module}.'.startswith(f'{PACKAGE}.')


def check(imports: Mapping[str, str]) -> None:
  """Checks that all that gin files import of T5X is served.

  Args:
    imports: the place of each imported module, for the message.

  Raises:
    UnservedError: a module of T5X is not.
  """
  for module, where in imports.items():
    if is_t5x(module):
      try:
        serving(module)
      except UnservedError as error:
        raise UnservedError(f'{where}: {error}') from error


def serving(module: str) -> str:
  """Returns the module that gin gets for a module of T5X.

  Args:
    module: its name, such as 't5x.utils'.

  Raises:
    UnservedError: there is none; the message names a remedy.
  """
  if module in MODULES:
    return MODULES[module]
  instead = next(
    (text for name, text in _INSTEAD.items() if f'{module}.'.startswith(name)),
    'leave it out',
  )
  raise UnservedError(
    f'{module}: the embedded runtime has no such module; {instead}, or install '
    'T5X'
  )


def served(statement: config_parser.ImportStatement):
  """Returns an import of our module that binds the same name.

  Args:
    statement: an import of a module of T5X, other than `import t5x.utils`,
      which binds the package's name.

  Raises:
    UnservedError: the runtime has no such module.
  """
  name = statement.bound_name()
  module = serving(statement.module)
  alias = None if module.rpartition('.')[2] == name else name
  return statement._replace(module=module, is_from=True, alias=alias)


@contextlib.contextmanager
def served_to_gin() -> Iterator[list[str]]:
  """Makes gin resolve imports of T5X's modules to the runtime's, if it runs.

  Yields:
    The names of the modules served so far, without duplicates.
  """
  from fnet_t5x.compat import engine

  names: list[str] = []
  before = config.ParseContext
  if not engine.USES_T5X:
    # Gin has no hook for imports; it makes one context per file.
    config.ParseContext = functools.partial(_ServingContext, names)
  try:
    yield names
  finally:
    config.ParseContext = before


class _ServingContext(config.ParseContext):
  """Gin's context of a file, in which T5X's modules are ours."""

  def __init__(self, served_names: list[str], import_manager=None):
    super().__init__(import_manager)
    self._served_names = served_names

  def process_import(self, statement: config_parser.ImportStatement) -> None:
    if not is_t5x(statement.module):
      super().process_import(statement)
      return
    module = serving(statement.module)
    if statement.module not in self._served_names:
      self._served_names.append(statement.module)
    if statement.is_from or statement.alias:
      super().process_import(served(statement))
      return
    # `import t5x.utils` binds `t5x`, by which the file then names members.
    package = self._symbol_table.setdefault(PACKAGE, types.SimpleNamespace())
    *path, name = statement.module.split('.')[1:]
    for part in path:
      package.__dict__.setdefault(part, types.SimpleNamespace())
      package = getattr(package, part)
    setattr(package, name, importlib.import_module(module))
    self._symbol_source[PACKAGE] = statement
    self._imports.append(_import_of(statement))

  def _import_source(self, import_statement, attr_names):
    """Returns the import for a saved configuration, and the name in it."""
    if not is_t5x(import_statement.module):
      return super()._import_source(import_statement, attr_names)
    # Of several `import t5x...`, the one that has this member.
    for end in range(len(attr_names) - 1, 1, -1):
      module = '.'.join(attr_names[:end])
      if module in MODULES:
        source = _import_of(import_statement._replace(module=module))
        return source, '.'.join(attr_names[end:])
    raise UnservedError(f'{".".join(attr_names)}: imported by none of the file')


def _import_of(statement: config_parser.ImportStatement):
  """Returns `from ... import name` of our module for `import t5x....name`."""
  return served(statement._replace(is_from=True))
