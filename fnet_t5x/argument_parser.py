"""Command-line parser of commands without gin files, such as benchmarks."""

import argparse
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn


class _Formatter(
  argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter
):
  """Help with the description unwrapped, and with non-empty defaults."""

  def _get_help_string(self, action: argparse.Action) -> str | None:
    if action.default in (None, False, '', []):
      return action.help
    return super()._get_help_string(action)


class ArgumentParser(argparse.ArgumentParser):
  """An argparse parser that reports an error as one line."""

  def __init__(self, module: str, description: str):
    """Creates a parser without arguments.

    Args:
      module: the module that `python -m` runs.
      description: its docstring, with an example.
    """
    super().__init__(
      prog=f'python -m {module}',
      description=description.strip(),
      formatter_class=_Formatter,
    )

  def error(self, message: str) -> NoReturn:
    """Exits with one line and exit code 2."""
    self.exit(2, f'error: {message}\n')

  def add_list(
    self,
    flag: str,
    kind: Callable[[str], Any],
    default: Sequence[Any] | None,
    description: str,
    choices: Collection[Any] = (),
  ) -> None:
    """Adds a flag with several values, separated by commas or spaces.

    Args:
      flag: the flag.
      kind: converts the text of a value; raises ValueError.
      default: the values without the flag.
      description: its help.
      choices: the values allowed; all if empty.
    """

    def values(text: str) -> list[Any]:
      found = [kind(word) for word in text.split(',')]
      for value in found:
        if choices and value not in choices:
          raise argparse.ArgumentTypeError(
            f'{value}: choose from {", ".join(map(str, choices))}'
          )
      return found

    values.__name__ = kind.__name__
    self.add_argument(
      flag,
      type=values,
      nargs='+',
      action=_Flattened,
      default=default,
      help=description,
    )


class _Flattened(argparse.Action):
  """Stores lists as one, with each value once."""

  def __call__(self, parser, namespace, values, option_string=None):
    flat = dict.fromkeys(value for part in values for value in part)
    setattr(namespace, self.dest, list(flat))
