"""Output of a benchmark: a table to read and a JSON file to keep."""

import argparse
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from fnet_t5x import whole_file


def environment() -> dict[str, Any]:
  """Returns the versions and devices that figures depend on."""
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
    columns: the headings.
    sections: groups of rows of cells, with a line between groups.
    console: console to print on; the terminal by default.
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
  # Wider than the 80 columns of a file if needed, to truncate no number.
  width = Measurement.get(console, console.options.update(width=1000), table)
  console.width = max(console.width, width.maximum)
  console.print(table)


def parse(
  parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> argparse.Namespace:
  """Parses the command line, with `--json FILE`; exits on invalid input.

  A missing folder of the file is reported now, not after measuring.
  """
  parser.add_argument(
    '--json', type=pathlib.Path, help='JSON file for all figures'
  )
  options = parser.parse_args(arguments)
  if options.json:
    try:
      check_writable(options.json)
    except FileNotFoundError as error:
      parser.error(f'--json {error}')
  return options


def check_figure(
  parser: argparse.ArgumentParser, path: pathlib.Path | None
) -> None:
  """Exits if a figure could not be drawn, or not be written to its file."""
  if path is None:
    return
  from fnet_t5x.run_report import figure

  try:
    check_writable(path)
    figure.check_matplotlib()
  except (FileNotFoundError, ImportError) as error:
    parser.error(f'--figure {error}')


def check_writable(path: pathlib.Path) -> None:
  """Raises FileNotFoundError if the file's folder does not exist."""
  if not path.parent.is_dir():
    raise FileNotFoundError(
      f'{path}: there is no folder {path.parent}; create it first'
    )


def write_json(
  path: pathlib.Path,
  benchmark: str,
  settings: Mapping[str, Any],
  rows: Sequence[Mapping[str, Any]],
) -> None:
  """Writes the rows, with their settings and environment.

  A file is replaced at once, so that it is complete whenever a run ends.
  """
  content = {
    'benchmark': benchmark,
    'environment': environment(),
    'settings': dict(settings),
    'rows': [dict(row) for row in rows],
  }
  text = json.dumps(content, indent=2) + '\n'
  if path.exists() and not path.is_file():
    path.write_text(text)  # Such as /dev/stdout.
    return
  whole_file.write(path, text.encode())
