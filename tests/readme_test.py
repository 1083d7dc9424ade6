"""Commands in README.md and docs/: each can be run as written.

A shell executes the documents' code with stand-ins for all programs that record
their arguments, so that quotes, loops, variables and line ends mean what they
mean to the shell. The recorded commands are then run; those that need minutes,
a cloud or the user's data are checked as far as possible: `--help` must list
their flags, and their gin files and macros must make a complete run.
"""

import functools
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest
from checkout import ROOT

from fnet_t5x import __main__ as commands
from fnet_t5x import gin_check

DOCUMENTS = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('**/*.md'))]
_PROGRAMS = (
  'bash',
  'fnet-t5x',
  'git',
  'make',
  'pip',
  'python',
  'python3',
  'seqio_cache_tasks',
  'tensorboard',
)
_RECORD = """#!/bin/sh
case "$*" in *fnet_t5x.gin_root) echo {root}; exit;; esac
printf '%s\\0' "${{0##*/}}" "$@" >> {log}
printf '\\n' >> {log}
"""
# Commands that are run as they are; each takes a few seconds.
_RUN = (
  'fnet_t5x.gin_root',
  'fnet_t5x.tasks.catalog',
  'fnet_t5x.show',
)
_MODES = {'train': 'train', 'eval': 'eval', 'infer': 'infer'}


def _code(text: str) -> Iterator[str]:
  """Returns the shell code of a document, in blocks and inline."""
  blocks = re.compile(r'^```(\w*)\n(.*?)^```$', re.M | re.S)
  for language, code in blocks.findall(text):
    if language in ('', 'bash', 'sh'):
      yield code
  begins = '|'.join(re.escape(program) for program in _PROGRAMS)
  # A name alone, such as `make`, is not a command.
  inline = rf'`((?:\w+=\S+ )*(?:{begins}) [^`]+)`'
  # Markdown shows a line end within inline code as a space.
  for code in re.findall(inline, blocks.sub('', text)):
    yield code.replace('\n', ' ')


def _recorded(code: str, folder: pathlib.Path) -> list[tuple[str, ...]]:
  """Returns the programs that a piece of code calls, with their arguments.

  Raises:
    AssertionError: if the shell reports an error, or a program is unknown here.
  """
  log = folder / 'log'
  log.write_bytes(b'')
  stand_in = folder / 'record'
  stand_in.write_text(_RECORD.format(root=ROOT, log=log))
  stand_in.chmod(stat.S_IRWXU)
  for name in ('bin', '.venv/bin'):
    (folder / name).mkdir(parents=True, exist_ok=True)
    for program in _PROGRAMS:
      link = folder / name / program
      link.unlink(missing_ok=True)
      link.symlink_to(stand_in)
  (folder / '.venv/bin/activate').write_text('')
  (folder / 'fnet_t5x').mkdir(exist_ok=True)
  result = subprocess.run(
    ['/bin/bash', '-euc', code],
    cwd=folder,
    env={'PATH': str(folder / 'bin'), 'HOME': str(folder)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert not result.returncode, f'{code}\n{result.stderr}'
  return [
    tuple(line.decode().split('\0')[:-1])
    for line in log.read_bytes().splitlines()
  ]


@functools.cache
def _all_commands() -> list[tuple[str, ...]]:
  """Returns each command of the documents once, in order."""
  import tempfile

  found = {}
  with tempfile.TemporaryDirectory() as folder:
    for document in DOCUMENTS:
      for code in _code(document.read_text()):
        found.update(dict.fromkeys(_recorded(code, pathlib.Path(folder))))
  return list(found)


def _name(command: Sequence[str]) -> str:
  return ' '.join(command)[:100]


@pytest.mark.parametrize('command', _all_commands(), ids=_name)
def test_command_is_valid(command, tmp_path):
  program, *arguments = command
  arguments = [a for a in arguments if a != '...']
  if program in ('python', 'python3'):
    assert arguments[0] == '-m', 'only modules are run'
    _check_module(arguments[1], arguments[2:], tmp_path)
  elif program == 'fnet-t5x':
    if arguments == ['--help']:
      _check_module('fnet_t5x', arguments, tmp_path)
      return
    module, _ = commands.COMMANDS[arguments[0]]
    _check_module(f'fnet_t5x.{module}', arguments[1:], tmp_path)
  elif program == 'make':
    _run(['make', '--dry-run', *arguments], ROOT)
  elif program == 'pip':
    _check_extras(arguments)
  elif program == 'bash':
    _run(['bash', '-n', arguments[0]], ROOT)
    assert _unknown_extras(arguments[-1].split(',')) == []
  elif program == 'seqio_cache_tasks':
    _check_tasks(arguments)
  elif program == 'git':
    assert arguments[0] == 'clone'
  else:
    # For a log directory, only the program's existence can be checked.
    importlib.metadata.version(program)


def _check_module(module, arguments, folder):
  if module == 'pytest':
    _check_pytest(arguments)
  elif module in _RUN:
    _run([sys.executable, '-m', module, *arguments], folder)
  elif module == 't5x.train':
    _check_gin('train', arguments)
  else:
    assert module.partition('.')[0] == 'fnet_t5x', module
    _check_flags(module, arguments)
    mode = _MODES.get(module.removeprefix('fnet_t5x.'))
    launched = [a for a in arguments if a.startswith('--run_mode=')]
    if launched:
      mode = launched[0].partition('=')[2]
      arguments = [*arguments, '--gin.MODEL_DIR="x"']
    if mode and any(a.startswith('--gin_file') for a in arguments):
      _check_gin(mode, arguments)


def _check_flags(module: str, arguments: Sequence[str]) -> None:
  """Checks that `--help` lists every flag of the command."""
  said = _help(module)
  for argument in arguments:
    name = argument.partition('=')[0]
    if name == '--help':
      continue
    if not name.startswith('--') or name.startswith('--gin.'):
      continue
    named = rf'--(\[no\])?{re.escape(name[2:])}\b'
    negated = rf'--\[no\]{re.escape(name[2:].removeprefix("no"))}\b'
    assert re.search(named, said) or re.search(negated, said), (
      f'{module} has no {name}:\n{said}'
    )


@functools.cache
def _help(module: str) -> str:
  return _run([sys.executable, '-m', module, '--help'], ROOT)


def _check_gin(mode: str, arguments: Sequence[str]) -> None:
  """Checks that the gin files exist, and set every macro of the run."""
  files, bindings = [], []
  for argument in arguments:
    name, _, value = argument.partition('=')
    if name == '--gin_file':
      # A conversion writes model.gin, in place of this file.
      converted = {'/data/t5_base/model.gin': 'gin/models/t5_base.gin'}
      files.append(converted.get(value, value))
    elif name.startswith('--gin.'):
      bindings.append(f'{name.removeprefix("--gin.")} = {value}')
    elif name == '--model_dir' and mode == 'train':
      bindings.append(f'MODEL_DIR = {value!r}')
  try:
    gin_check.check(mode, files, bindings, [str(ROOT)])
  except FileNotFoundError as error:
    if 't5x/' in str(error) and not importlib.util.find_spec('t5x'):
      pytest.skip("T5X's own gin files are not here")
    raise


def _check_extras(arguments: Sequence[str]) -> None:
  assert arguments[0] == 'install'
  # Only extras of this package can be checked.
  extras = re.findall(r'(?:fnet_t5x|\.)\[(.*?)\]', ' '.join(arguments))
  assert _unknown_extras(','.join(extras).split(',') if extras else []) == []


def _unknown_extras(extras: Sequence[str]) -> list[str]:
  """Returns the extras that setup.py does not define."""
  source = (ROOT / 'setup.py').read_text()
  return [e for e in extras if not re.search(rf"^    '{e}': \[?", source, re.M)]


def _check_pytest(arguments: Sequence[str]) -> None:
  paths = [a for a in arguments if a.startswith('tests')]
  assert paths
  for path in paths:
    assert (ROOT / path).exists(), path
  if '-k' in arguments:
    word = arguments[arguments.index('-k') + 1]
    files = (f for path in paths for f in (ROOT / path).rglob('*_test.py'))
    assert any(re.search(rf'def test_\w*{word}', f.read_text()) for f in files)


def _check_tasks(arguments: Sequence[str]) -> None:
  from fnet_t5x.tasks import catalog

  names = [a for a in arguments if a.startswith('--tasks=')]
  assert names
  for name in names[0].partition('=')[2].split(','):
    catalog.get(name)


def _run(command: Sequence[str], folder: pathlib.Path) -> str:
  result = subprocess.run(
    command,
    cwd=folder,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert not result.returncode, result.stdout + result.stderr
  return result.stdout


def test_documents_hold_commands():
  """Guards the search for commands: the count changes with documents only."""
  assert len(_all_commands()) > 40


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: path.name)
def test_files_named_in_a_document_exist(document):
  # Patterns, such as gin/models/t5_*.gin, are skipped.
  named = re.findall(
    r'`((?:tests|gin|docs|tasks|xm_launch|fnet_t5x)/[\w./]+)`',
    document.read_text(),
  )
  named += re.findall(r'\]\((?!http)([^)#]+)\)', document.read_text())
  missing = [
    name
    for name in named
    if not (ROOT / name).exists() and not (document.parent / name).exists()
  ]
  assert not missing
