"""Catalog of all tasks by name; importing this module registers them.

  python -m fnet_t5x.tasks.catalog

prints the catalog as a table.
"""

import difflib
import sys
import types
from collections.abc import Mapping

from fnet_t5x import command_line

if __name__ == '__main__':
  with command_line.one_line_errors():
    command_line.read(sys.argv, __doc__)
  command_line.import_tensorflow()

import seqio

from fnet_t5x.tasks import (
  c4,
  evaluation_table,
  objectives,
  pile,
  registration,
  sotu,
  text_files,
)

CATALOG: Mapping[str, registration.Entry] = types.MappingProxyType(
  {
    entry.name: entry
    for entry in (
      *sotu.ENTRIES,
      *text_files.ENTRIES,
      *c4.ENTRIES,
      *pile.ENTRIES,
      *evaluation_table.EVALUATION_TASKS.values(),
    )
  }
)


def get(name: str) -> seqio.Task | seqio.Mixture:
  """Returns the task or mixture registered under `name`, ours or not.

  Raises:
    ValueError: unknown name; the message lists the closest ones.
  """
  names = sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})
  if name in names:
    return seqio.get_mixture_or_task(name)
  close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
  if close:
    hint = f'did you mean {" or ".join(close)}?'
  else:
    hint = '`python -m fnet_t5x.tasks.catalog` lists ours.'
  raise ValueError(
    f"unknown task or mixture '{name}' (MIXTURE_OR_TASK_NAME): {hint} A custom"
    ' task must be imported in the gin file'
  )


def default_feature_lengths(name: str) -> Mapping[str, int]:
  """Returns a task's default lengths, in tokens, by feature.

  Raises:
    ValueError: the task is not in the catalog.
  """
  if name not in CATALOG:
    raise ValueError(
      f'{name} has no default lengths: set TASK_FEATURE_LENGTHS in a gin file'
    )
  return CATALOG[name].feature_lengths


def check_feature_lengths(name: str, lengths: Mapping[str, int]) -> None:
  """Checks that feature lengths are valid for a task.

  Args:
    name: task or mixture.
    lengths: length in tokens by feature (TASK_FEATURE_LENGTHS).

  Raises:
    ValueError: unknown task; a feature's length is missing or below 1.
  """
  objectives.check_feature_lengths(lengths, list(get(name).output_features))


def _print() -> None:
  import rich.console
  import rich.table

  table = rich.table.Table(box=None, pad_edge=False)
  for column in ('name', 'source', 'objective', 'feature lengths'):
    table.add_column(column, no_wrap=column == 'name')
  for entry in CATALOG.values():
    lengths = ', '.join(f'{k} {v}' for k, v in entry.feature_lengths.items())
    table.add_row(entry.name, entry.source, entry.objective, lengths)
  console = rich.console.Console()
  if not console.is_terminal:
    # A pipe has no width: do not wrap lines.
    console = rich.console.Console(width=240)
  console.print(table)


if __name__ == '__main__':
  with command_line.one_line_errors():
    _print()
