"""What a benchmark leaves behind: a table to read and a JSON file to keep."""

import argparse
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


def environment() -> dict[str, Any]:
  """Returns what a number depends on besides the code."""
  import jax

  device = jax.devices()[0]
  return {
    'jax': jax.__version__,
    'backend': jax.default_backend(),
    'device': device.device_kind,
    'device_count': jax.device_count(),
  }


def print_table(
  title: str,
  columns: Sequence[str],
  sections: Sequence[Sequence[Sequence[str]]],
  console: Console | None = None,
) -> None:
  """Prints one table; its first column is text, the others are numbers.

  Args:
    title: printed above.
    columns: the heads.
    sections: groups of rows of cells, with a line between groups.
    console: where to; by default the terminal.
  """
  console = console or Console()
  # A table's own title is wrapped to the table's width.
  console.print(title, highlight=False, markup=False, soft_wrap=True)
  table = Table()
  for index, column in enumerate(columns):
    table.add_column(column, justify='right' if index else 'left', no_wrap=True)
  for rows in sections:
    for row in rows:
      table.add_row(*row)
    table.add_section()
  # Wider than a file's 80 columns where it must be: no number is cut short.
  width = Measurement.get(console, console.options.update(width=1000), table)
  console.width = max(console.width, width.maximum)
  console.print(table)


def parse(
  parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> argparse.Namespace:
  """Reads the command line, with `--json FILE`; ends the program on bad input.

  A file in a folder that there is not is bad input: now, not after measuring.
  """
  parser.add_argument('--json', type=pathlib.Path, help='file to write')
  options = parser.parse_args(arguments)
  if options.json:
    try:
      check_writable(options.json)
    except FileNotFoundError as error:
      parser.error(f'--json {error}')
  return options


def check_writable(path: pathlib.Path) -> None:
  """Raises FileNotFoundError now, rather than after minutes of measuring."""
  if not path.parent.is_dir():
    raise FileNotFoundError(
      f'{path}: there is no folder {path.parent}; make it first'
    )


def write_json(
  path: pathlib.Path,
  benchmark: str,
  settings: Mapping[str, Any],
  rows: Sequence[Mapping[str, Any]],
) -> None:
  """Writes the rows, with the settings and the environment they came from."""
  content = {
    'benchmark': benchmark,
    'environment': environment(),
    'settings': dict(settings),
    'rows': [dict(row) for row in rows],
  }
  path.write_text(json.dumps(content, indent=2) + '\n')
