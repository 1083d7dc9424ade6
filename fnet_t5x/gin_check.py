"""Static checks of gin files and bindings, without importing what they name.

Gin's own parser reads them. Errors in a command line thus show within a second,
instead of after TensorFlow's import or the start of a pod.
"""

import dataclasses
import difflib
import importlib.util
import io
import os
import pathlib
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from gin import config_parser

from fnet_t5x import gin_binding, gin_syntax, macro_cycles, model_tasks
from fnet_t5x.gin_root import gin_root

# By command, the function to configure and a gin file that configures it.
RUN_FUNCTIONS = {
  'train': ('train', 'gin/runs/pretrain.gin'),
  'eval': ('evaluate', 'gin/runs/eval.gin'),
  'infer': ('infer', 'gin/runs/infer.gin'),
}
# The package whose gin files ours include, and which may be installed only
# where the run takes place.
T5X = 't5x'
# Folders of gin/ to search for macros that a run's files lack. Each file there
# is one choice; experiments, which set macros of all of these, are not listed.
_PROVIDERS = (
  'sources',
  'objectives',
  'vocabularies',
  'optimizers',
  'models',
  'runs',
  'partitioning',
)
_REQUIRED = '%gin.REQUIRED'


class _Text(str):
  """A reference or macro in a value, with a repr without quotes."""

  def __repr__(self) -> str:
    return str(self)


class _Macros(config_parser.ParserDelegate):
  """A parser delegate that collects the macros that values refer to."""

  def __init__(self):
    self.used: set[str] = set()

  def configurable_reference(self, scoped_configurable_name, evaluate):
    return _Text(f'@{scoped_configurable_name}{"()" if evaluate else ""}')

  def macro(self, macro_name):
    # A name with a dot is a constant, such as %gin.REQUIRED.
    if '.' not in macro_name:
      self.used.add(macro_name.rpartition('/')[2])
    return _Text(f'%{macro_name}')


@dataclasses.dataclass(frozen=True)
class Macro:
  """A macro's value.

  Attributes:
    value: as gin reads it; references are texts.
    file: the gin file, or '--gin.NAME', that set it last.
  """

  value: Any
  file: str


@dataclasses.dataclass
class Contents:
  """Macros and functions that the files and bindings of a run set and use.

  Attributes:
    search_paths: folders to search for files.
    macros: by name; later files and bindings override earlier ones.
    functions: functions of `__main__`, with the file that configures each.
    unseen: files that only the full parser can read, such as gs:// ones. What
      they set is unknown here.
    elsewhere: packages that are installed where the run takes place, but maybe
      not on this machine; if such a package is missing, its files are unseen.
    imports: imported modules, with file and line of the first import.
  """

  search_paths: Sequence[str]
  macros: dict[str, Macro] = dataclasses.field(default_factory=dict)
  functions: dict[str, str] = dataclasses.field(default_factory=dict)
  unseen: list[str] = dataclasses.field(default_factory=list)
  elsewhere: Collection[str] = ()
  imports: dict[str, str] = dataclasses.field(default_factory=dict)
  _delegate: _Macros = dataclasses.field(default_factory=_Macros)
  _scripts: set[str] = dataclasses.field(default_factory=set)
  _refers: dict[str, list[str]] = dataclasses.field(default_factory=dict)

  @property
  def used(self) -> set[str]:
    """The macros that values refer to."""
    return self._delegate.used

  @property
  def known(self) -> list[str]:
    """The macros that a binding may set, sorted."""
    return sorted({*self.macros, *self.used})

  def read(self, name: str, included_by: Sequence[str] = ()) -> None:
    """Reads a file, and the files that it includes.

    Raises:
      FileNotFoundError: if it is in none of the search paths.
      ValueError: if it is not gin, or includes itself.
    """
    if name in included_by:
      raise ValueError(
        f'{included_by[-1]} includes {name}, which includes it in turn; remove '
        'one of the two lines'
      )
    path = find(name, self.search_paths)
    if path is None:
      remote = any('://' in place for place in (name, *self.search_paths))
      package = name.partition('/')[0]
      absent = package in self.elsewhere and _package(package) is None
      if remote or absent:
        self.unseen.append(name)
        return
      where = f'{included_by[-1]} includes {name}' if included_by else name
      remedy = 'correct the name, or add --gin_search_paths'
      if package == T5X and _package(T5X) is None:
        remedy = (
          "T5X's gin files come with T5X: install it, or give the folder of a "
          'checkout, which has t5x/, by --gin_search_paths=FOLDER; gin/models '
          'and gin/runs have ours'
        )
      raise FileNotFoundError(
        f'gin file {where}: in none of {", ".join(self.search_paths)}; {remedy}'
      )
    if os.path.isdir(path):
      raise ValueError(f'gin file {name}: is a folder; name a file in it')
    try:
      with open(path, encoding='utf-8') as f:
        text = f.read()
    except UnicodeDecodeError as error:
      raise ValueError(
        f'{name}: not a text file (byte {error.start} is not UTF-8)'
      ) from error
    self.take(text, name, included_by)

  def take(self, text: str, name: str, included_by: Sequence[str] = ()) -> None:
    """Parses a file's contents, and reads the files that it includes.

    Raises:
      FileNotFoundError, ValueError: as `read`.
    """
    with gin_syntax.one_line_errors(name):
      for statement in config_parser.ConfigParser(
        io.StringIO(text), self._delegate
      ):
        self._take(statement, name, included_by)

  def bind(self, binding: str) -> None:
    """Parses a binding `NAME = VALUE` of the command line.

    Raises:
      ValueError: if it is not gin, not one binding, or sets a macro that is in
        no file.
    """
    name = binding.partition('=')[0].strip()
    if not self.unseen:
      check_macro(name, self.known)
    self._bind(gin_binding.parse(binding, self._delegate), f'--gin.{name}')

  def check_macros(self) -> None:
    """Raises ValueError if a macro is used and has no value."""
    if not self.unseen:
      check_set(self.used - set(self.macros))
      # T5X's files name what a run must set by this constant.
      required = [
        name
        for name in sorted(self.used)
        if isinstance(self.macros[name].value, _Text)
        and self.macros[name].value == _REQUIRED
      ]
      if required:
        raise ValueError(
          f'{", ".join(required)} not set, as '
          f'{self.macros[required[0]].file} requires: give '
          f'--gin.{required[0]}=...'
        )

  def check_cycles(self) -> None:
    """Raises ValueError if a macro refers to itself."""
    macro_cycles.check(self._refers)

  def _bind(self, statement: config_parser.BindingStatement, by: str) -> None:
    if statement.arg_name:
      return
    self.macros[statement.selector] = Macro(statement.value, by)
    name = '/'.join(filter(None, (statement.scope, statement.selector)))
    self._refers[name] = _macros_in(statement.value)

  def _take(self, statement, name: str, included_by: Sequence[str]) -> None:
    if isinstance(statement, config_parser.IncludeStatement):
      self.read(statement.filename, (*included_by, name))
    elif isinstance(statement, config_parser.ImportStatement):
      where = f'{name}, line {statement.location.line_num}'
      self.imports.setdefault(statement.module, where)
      if statement.module == '__main__':
        self._scripts.add(statement.bound_name())
    elif isinstance(statement, config_parser.BindingStatement):
      self._bind(statement, name)
      script, _, function = statement.selector.partition('.')
      if script in self._scripts:
        self.functions.setdefault(function, name)


def read(
  gin_files: Sequence[str],
  bindings: Sequence[str],
  search_paths: Sequence[str],
  texts: Iterable[tuple[str, str]] = (),
) -> Contents:
  """Reads gin files, then bindings, in the order of a command.

  Args:
    gin_files: files, by their path in one of `search_paths`.
    bindings: `NAME=VALUE`.
    search_paths: local folders.
    texts: (name, gin text) pairs to be read before the files.

  Raises:
    FileNotFoundError, ValueError: as `Contents.read` and `Contents.bind`.
  """
  contents = Contents(search_paths)
  for name, text in texts:
    contents.take(text, name)
  for name in gin_files:
    contents.read(name)
  for binding in bindings:
    contents.bind(binding)
  contents.check_cycles()
  return contents


def macros_of(text: str) -> dict[str, Any]:
  """Returns the macros that a run's saved `config.gin` sets, by name.

  Opens no included files, since it is not trusted.

  Raises:
    ValueError: if it is not gin.
  """
  with gin_syntax.one_line_errors('config.gin'):
    return {
      statement.selector: statement.value
      for statement in config_parser.ConfigParser(io.StringIO(text), _Macros())
      if isinstance(statement, config_parser.BindingStatement)
      and not statement.arg_name
    }


def check(
  run_mode: str,
  gin_files: Sequence[str],
  bindings: Sequence[str],
  search_paths: Sequence[str],
  texts: Iterable[tuple[str, str]] = (),
  elsewhere: Collection[str] = (),
) -> Contents:
  """Checks that a command can start with these gin files and bindings.

  Args:
    run_mode: `train`, `eval` or `infer`.
    gin_files: files, by their path in one of `search_paths`.
    bindings: `NAME=VALUE`.
    search_paths: local folders.
    texts: (name, gin text) pairs to be read before the files.
    elsewhere: packages that may be missing here; see `Contents.elsewhere`.

  Returns:
    Their contents.

  Raises:
    FileNotFoundError: if a file, or one that it includes, is in none of the
      search paths.
    ValueError: if a file or binding is not gin, a binding sets a macro that is
      in no file, a macro is used and has no value or refers to itself, the
      files configure another command, or the model does not take the objective.
  """
  contents = Contents(search_paths, elsewhere=elsewhere)
  for name, text in texts:
    contents.take(text, name)
  for name in gin_files:
    contents.read(name)
  _check_function(run_mode, contents)
  for binding in bindings:
    contents.bind(binding)
  contents.check_macros()
  contents.check_cycles()
  model_tasks.check_macros(
    *(
      contents.macros[name].value if name in contents.macros else None
      for name in ('MODEL', 'OBJECTIVE', 'MIXTURE_OR_TASK_NAME')
    )
  )
  return contents


def _check_function(run_mode: str, contents: Contents) -> None:
  function, run_file = RUN_FUNCTIONS[run_mode]
  others = {n: f for n, f in contents.functions.items() if n != function}
  if others:
    other, name = next(iter(others.items()))
    raise ValueError(
      f'{name} configures {other}, not {function}; replace it by a --gin_file '
      f'for {run_mode}, such as {run_file}'
    )
  if function not in contents.functions and not contents.unseen:
    raise ValueError(
      f'the gin files do not configure {function}: add --gin_file={run_file}'
    )


def check_macro(name: str, known: Collection[str]) -> None:
  """Checks that a binding sets no macro that the run's files lack.

  Gin defines a new macro for any name without a dot, so that a typo would be
  ignored.

  Args:
    name: the name that the binding sets; anything but a macro passes.
    known: the macros of the run's files.

  Raises:
    ValueError: if the macro is unknown; names a file to add, or similar names.
  """
  if not re.fullmatch(r'\w+', name) or name in known:
    return
  providers = providing_files(name)
  close = difflib.get_close_matches(name, sorted(known), n=3)
  if providers:
    remedy = f'add {_as_flags(providers)}'
  elif close:
    remedy = f'did you mean {", ".join(close)}?'
  else:
    remedy = 'correct the name (--list_macros lists all macros)'
  raise ValueError(
    f'--gin.{name}: no gin file of this run has the macro {name}; {remedy}'
  )


def check_set(missing: Iterable[str]) -> None:
  """Raises ValueError if any macros are missing, with files that set them."""
  by_remedy: dict[str, list[str]] = {}
  for name in sorted(missing):
    providers = providing_files(name)
    remedy = f'add {_as_flags(providers)}' if providers else ''
    by_remedy.setdefault(remedy, []).append(name)
  if by_remedy:
    raise ValueError(
      '; '.join(
        f'{", ".join(names)} not set: {remedy or f"give --gin.{names[0]}=..."}'
        for remedy, names in by_remedy.items()
      )
    )


def _macros_in(value: Any) -> list[str]:
  """Returns the macros that a value refers to, with their scopes."""
  if isinstance(value, _Text):
    return [value.removeprefix('%')] if value.startswith('%') else []
  if isinstance(value, dict):
    value = [*value.keys(), *value.values()]
  if isinstance(value, list | tuple):
    return [name for part in value for name in _macros_in(part)]
  return []


def providing_files(macro: str) -> list[str]:
  """Returns the gin files that set a macro, from the first folder with any.

  Files that set it themselves come before files that include one that does.
  Experiments are skipped: they only override macros of other files.
  """
  root = gin_root()
  for folder in _PROVIDERS:
    found = []
    for path in sorted(pathlib.Path(root, 'gin', folder).glob('*.gin')):
      name = path.relative_to(root).as_posix()
      macros = read([name], [], [root]).macros
      if macro in macros:
        found.append((macros[macro].file != name, name))
    if found:
      return [name for _, name in sorted(found)]
  return []


def _as_flags(files: Sequence[str]) -> str:
  first = f'--gin_file={files[0]}'
  return first if len(files) == 1 else f'{first} (or another in that folder)'


def find(name: str, search_paths: Sequence[str]) -> str | None:
  """Returns the path of a gin file, or None if it is not on this machine.

  Args:
    name: the file's path in one of `search_paths`, or in an installed package,
      such as 't5x/...'.
    search_paths: folders to search.
  """
  for folder in search_paths:
    path = os.path.join(folder, name)
    if os.path.exists(path):
      return path
  # Gin also finds `package/...` in installed packages.
  package = name.partition('/')[0]
  if not package.isidentifier() or package in ('gin', '__main__'):
    return None
  for folder in _package(package) or ():
    path = os.path.join(os.path.dirname(folder), name)
    if os.path.exists(path):
      return path
  return None


def _package(name: str) -> Sequence[str] | None:
  """Returns a package's folders; None if it is not importable here."""
  spec = importlib.util.find_spec(name)
  return spec and list(spec.submodule_search_locations or ())
