"""One command for all: `fnet-t5x COMMAND ...`.

  fnet-t5x train --gin_file=gin/experiments/quickstart.gin

`fnet-t5x COMMAND` is `python -m` of the module beside it below, and takes the
same flags; `fnet-t5x COMMAND --help` lists them.
"""

import difflib
import importlib.util
import runpy
import sys

# Commands, the modules that they run, and what they do.
COMMANDS = {
  'quickstart': ('quickstart', 'trains on a shipped corpus, continues texts'),
  'train': ('train', 'trains a model'),
  'eval': ('eval', 'evaluates a checkpoint on a task'),
  'infer': ('infer', 'predictions or scores of a task, as JSON lines'),
  'generate': ('generate', 'continues a text'),
  'report': ('report', 'draws runs: loss, learning rate, speed'),
  'tasks': ('tasks.catalog', 'lists the tasks'),
  'show': ('tasks.show', 'examples of a task'),
  'vocabulary': ('tasks.text_vocabulary', 'trains a vocabulary on texts'),
  'plan': ('plan', 'what a run takes on devices that are not here'),
  'convert': ('convert', 'checkpoints into another layout'),
  'benchmark': ('benchmarks', 'times a part of the project'),
  'launch': ('xm_launch.launch', 'a run on Vertex AI'),
  'tpu-vm': ('xm_launch.tpu_vm', 'a run on a TPU VM or pod'),
}
# Those of which the next word names a module of the folder.
_FOLDERS = {
  'convert': ('scan',),
  'benchmark': (
    'mixing',
    'engines',
    'input_pipeline',
    'collectives',
    'host_memory',
  ),
}


def help_text() -> str:
  """Returns the list of commands."""
  lines = [__doc__.strip(), '', 'commands:']
  for name, (module, summary) in COMMANDS.items():
    shown = f'{name} {"|".join(_FOLDERS[name])}' if name in _FOLDERS else name
    lines.append(f'  {shown}')
    lines.append(f'      {summary}  (fnet_t5x.{module})')
  return '\n'.join(lines) + '\n'


def module_of(words: list[str]) -> tuple[str, list[str]]:
  """Returns the module that a command line runs, and its arguments.

  Args:
    words: the command line, without the program's name.

  Raises:
    ValueError: there is no such command.
  """
  name, *rest = words
  if name not in COMMANDS:
    raise ValueError(_unknown(name, COMMANDS))
  module = f'fnet_t5x.{COMMANDS[name][0]}'
  if name not in _FOLDERS:
    return module, rest
  if not rest or rest[0] not in _FOLDERS[name]:
    raise ValueError(
      _unknown(f'{name} {rest[0]}' if rest else name, _FOLDERS[name])
    )
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
  try:
    module, rest = module_of(words)
  except ValueError as error:
    sys.stderr.write(f'error: {error}\n')
    sys.exit(2)
  # As `python -m` would: gin files reach a command's function as a member of
  # `__main__`, and argparse shows the module's file.
  sys.argv = [importlib.util.find_spec(module).origin, *rest]
  runpy.run_module(module, run_name='__main__', alter_sys=True)


if __name__ == '__main__':
  main()
