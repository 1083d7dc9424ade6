"""What is wrong with a run's gin files and bindings, found without importing.

Gin's own parser reads them, and nothing that they name is imported: an error
costs a second here, and the start of a pod there.
"""

import dataclasses
import difflib
import io
import os
import re
import tokenize
from collections.abc import Sequence

from gin import config_parser

# The function that each command configures, and the gin file that does it.
RUN_FUNCTIONS = {
  'train': ('train', 'gin/runs/pretrain.gin'),
  'eval': ('evaluate', 'gin/runs/eval.gin'),
  'infer': ('infer', 'gin/runs/infer.gin'),
}


class _Macros(config_parser.ParserDelegate):
  """Keeps the names of the macros that values refer to."""

  def __init__(self):
    self.used: set[str] = set()

  def configurable_reference(self, scoped_configurable_name, evaluate):
    return f'@{scoped_configurable_name}{"()" if evaluate else ""}'

  def macro(self, macro_name):
    # A name with a dot is a constant, such as %gin.REQUIRED.
    if '.' not in macro_name:
      self.used.add(macro_name.rpartition('/')[2])
    return f'%{macro_name}'


@dataclasses.dataclass
class _Contents:
  """What the files of a run set, use and configure."""

  search_paths: Sequence[str]
  delegate: _Macros = dataclasses.field(default_factory=_Macros)
  macros: set[str] = dataclasses.field(default_factory=set)
  # Of `__main__`: the functions, and the file that configures each.
  functions: dict[str, str] = dataclasses.field(default_factory=dict)
  _scripts: set[str] = dataclasses.field(default_factory=set)

  def read(self, name: str, included_by: str | None = None) -> None:
    """Reads a file, and the files that it includes."""
    for folder in self.search_paths:
      path = os.path.join(folder, name)
      if os.path.isfile(path):
        break
    else:
      where = f'{included_by} includes {name}' if included_by else name
      raise FileNotFoundError(
        f'gin file {where}: in none of {", ".join(self.search_paths)}'
      )
    with open(path) as f:
      text = f.read()
    try:
      for statement in config_parser.ConfigParser(
        io.StringIO(text), self.delegate
      ):
        self._take(statement, name)
    except SyntaxError as error:
      line = ' '.join((error.text or '').split())
      raise ValueError(
        f'{name}, line {error.lineno}: not gin: {line!r}; correct that line'
      ) from error
    except tokenize.TokenError as error:
      raise ValueError(
        f'{name}: a bracket or quotes are not closed; correct it'
      ) from error

  def _take(self, statement, name: str) -> None:
    if isinstance(statement, config_parser.IncludeStatement):
      self.read(statement.filename, included_by=name)
    elif isinstance(statement, config_parser.ImportStatement):
      if statement.module == '__main__':
        self._scripts.add(statement.bound_name())
    elif isinstance(statement, config_parser.BindingStatement):
      if not statement.arg_name:
        self.macros.add(statement.selector)
      script, _, function = statement.selector.partition('.')
      if script in self._scripts:
        self.functions.setdefault(function, name)


def check(
  run_mode: str,
  gin_files: Sequence[str],
  bindings: Sequence[str],
  search_paths: Sequence[str],
) -> None:
  """Refuses gin files and bindings that no host could start with.

  Args:
    run_mode: `train`, `eval` or `infer`.
    gin_files: files, by their path in one of `search_paths`.
    bindings: `NAME=VALUE`.
    search_paths: folders of this machine.

  Raises:
    FileNotFoundError: no search path holds a file, or one that it includes.
    ValueError: a file or binding is no gin, a binding sets a macro that no
      file has, a macro that is used has no value, or the files configure
      another command.
  """
  contents = _Contents(search_paths)
  for name in gin_files:
    contents.read(name)
  function, run_file = RUN_FUNCTIONS[run_mode]
  others = {n: f for n, f in contents.functions.items() if n != function}
  if others:
    other, name = next(iter(others.items()))
    raise ValueError(
      f'--run_mode={run_mode}: {name} configures {other}, not {function}; give '
      f'a --gin_file for {run_mode}, such as {run_file}, in its place'
    )
  if function not in contents.functions:
    raise ValueError(
      f'the gin files do not configure {function}: add --gin_file={run_file}'
    )
  known = sorted(contents.macros | contents.delegate.used)
  for binding in bindings:
    contents.macros |= _check_binding(binding, known, contents.delegate)
  missing = sorted(contents.delegate.used - contents.macros)
  if missing:
    raise ValueError(
      f'{", ".join(missing)} not set: give --gin.{missing[0]}=..., or a '
      "--gin_file that sets it (each file's head says what it provides)"
    )


def _check_binding(
  binding: str, known: Sequence[str], delegate: _Macros
) -> set[str]:
  """Returns the macros that a binding sets; refuses what is no binding."""
  name, _, value = (part.strip() for part in binding.partition('='))
  if re.fullmatch(r'\w+', name) and name not in known:
    close = difflib.get_close_matches(name, known, n=3)
    hint = f'did you mean {", ".join(close)}?' if close else 'correct the name'
    raise ValueError(
      f'--gin.{name}: no gin file of this run has the macro {name}; {hint}'
    )
  try:
    statements = list(
      config_parser.ConfigParser(io.StringIO(f'{binding}\n'), delegate)
    )
  except (SyntaxError, tokenize.TokenError) as error:
    raise ValueError(
      f'--gin.{name}={value}: {value or "nothing"} is no gin value; text needs '
      f'quotes: --gin.{name}="\'...\'"'
    ) from error
  if len(statements) != 1:
    raise ValueError(f'{binding!r}: not one binding; give each its own flag')
  return {
    statement.selector
    for statement in statements
    if not getattr(statement, 'arg_name', 'an include')
  }
