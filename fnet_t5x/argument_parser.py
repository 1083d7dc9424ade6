"""Command-line parser of commands without gin files, such as benchmarks."""

import argparse
from typing import NoReturn


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
