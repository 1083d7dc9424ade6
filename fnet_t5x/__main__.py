"""Command-line entry point: `fnet-t5x COMMAND ...`.

  fnet-t5x train --gin_file=gin/experiments/quickstart.gin

`fnet-t5x COMMAND --help` describes a command, with examples and flags.
"""

import difflib
import importlib.util
import runpy
import sys
import textwrap

_WIDTH = 80
# Module and summary of each command.
COMMANDS = {
  'quickstart': ('quickstart', 'trains on a shipped corpus, continues texts'),
  'train': ('train', 'trains a model'),
  'eval': ('eval', 'evaluates a checkpoint on a task'),
  'infer': ('infer', 'writes predictions or scores of a task as JSON lines'),
  'generate': ('generate', 'continues texts'),
  'report': ('report', 'plots runs: loss, learning rate, speed'),
  'sweep': ('sweep', 'trains several cases and seeds, and compares them'),
  'tasks': ('tasks.catalog', 'lists the tasks'),
  'show': ('show', 'shows examples of a task'),
  'vocabulary': ('tasks.text_vocabulary', 'trains a vocabulary on texts'),
  'plan': ('plan', 'estimates the cost of a run, for absent devices'),
  'export': ('export', 'exports a model as programs that need JAX alone'),
  'convert': ('convert', 'converts checkpoints to another layout'),
  'benchmark': ('benchmarks', 'measures a part of the project'),
  'launch': ('xm_launch.launch', 'launches a run on Vertex AI'),
  'tpu-vm': ('xm_launch.tpu_vm', 'runs on a TPU VM or pod'),
}
# Commands whose next word names a module of the folder.
_FOLDERS = {
  'convert': ('scan', 'fnet', 'hf', 'hybrid'),
  'benchmark': (
    'mixing',
    'mixing_estimates',
    'causal_mixing',
    'inference',
    'quality',
    'mixers',
    'encoders',
    'engines',
    'input_pipeline',
    'collectives',
    'host_memory',
    'resident_memory',
    'checkpoints',
    'glue',
    'accelerator',
    'results',
  ),
}


def help_text() -> str:
  """Returns the list of commands."""
  width = max(map(len, COMMANDS)) + 4
  lines = [__doc__.strip(), '', 'commands:']
  for name, (_, summary) in COMMANDS.items():
    if name in _FOLDERS:
      summary += f': {name} {" | ".join(_FOLDERS[name])}'
    lines += textwrap.wrap(
      summary,
      _WIDTH,
      initial_indent=f'  {name}'.ljust(width),
      subsequent_indent=' ' * width,
    )
  return '\n'.join(lines) + '\n'


def folder_help(name: str) -> str:
  """Returns the subcommands of a folder's command."""
  lines = [f'  fnet-t5x {name} {each} --help' for each in _FOLDERS[name]]
  return '\n'.join([f'{name}: {COMMANDS[name][1]}', '', *lines]) + '\n'


def module_of(words: list[str]) -> tuple[str, list[str]]:
  """Returns the module that a command line runs, and its arguments.

  Args:
    words: the command line, without the program's name.

  Raises:
    ValueError: for an unknown command.
  """
  name, *rest = words
  if name not in COMMANDS:
    raise ValueError(_unknown(name, COMMANDS))
  module = f'fnet_t5x.{COMMANDS[name][0]}'
  if name not in _FOLDERS:
    return module, rest
  if not rest:
    raise ValueError(
      f'fnet-t5x {name}: name one of {", ".join(_FOLDERS[name])}'
    )
  if rest[0] not in _FOLDERS[name]:
    raise ValueError(_unknown(f'{name} {rest[0]}', _FOLDERS[name]))
  return f'{module}.{rest[0]}', rest[1:]


def _unknown(name, known) -> str:
  last = name.rpartition(' ')[2]
  close = difflib.get_close_matches(last, known, n=1)
  hint = f'did you mean {close[0]}?' if close else f'use {", ".join(known)}'
  return f'fnet-t5x {name}: no such command; {hint}'


def main() -> None:
  """Runs the command that the command line names."""
  words = sys.argv[1:]
  if not words or words[0] in ('--help', '-h', 'help'):
    sys.stdout.write(help_text())
    sys.exit(0)
  if words[0] in _FOLDERS and words[1:2] in (['--help'], ['-h']):
    sys.stdout.write(folder_help(words[0]))
    sys.exit(0)
  try:
    module, rest = module_of(words)
  except ValueError as error:
    sys.stderr.write(f'error: {error}\n')
    sys.exit(2)
  # As `python -m` would: gin files refer to a command's function as a member
  # of `__main__`.
  sys.argv = [importlib.util.find_spec(module).origin, *rest]
  runpy.run_module(module, run_name='__main__', alter_sys=True)


if __name__ == '__main__':
  main()
