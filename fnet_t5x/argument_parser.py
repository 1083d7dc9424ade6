"""Command lines of commands that take no gin files, such as benchmarks."""

import argparse
from typing import NoReturn


class _Formatter(
  argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter
):
  """A docstring as it is, and the defaults that are something."""

  def _get_help_string(self, action: argparse.Action) -> str | None:
    if action.default in (None, False, '', []):
      return action.help
    return super()._get_help_string(action)


class ArgumentParser(argparse.ArgumentParser):
  """argparse's, for commands without gin files; errors are one line."""

  def __init__(self, module: str, description: str):
    """Makes a parser without arguments.

    Args:
      module: what `python -m` runs.
      description: its docstring: what it does, and an example.
    """
    super().__init__(
      prog=f'python -m {module}',
      description=description.strip(),
      formatter_class=_Formatter,
    )

  def error(self, message: str) -> NoReturn:
    """Ends the program with a line, and exit code 2."""
    self.exit(2, f'error: {message}\n')
