"""Tables of docs/PLANS.md, and expected times in the heads of experiments.

  python -m fnet_t5x.planning.tables --write

Generated from the plans in docs/measurements/plans: each is the output of
`fnet_t5x.plan --json` for one experiment; those in the subfolder `slices` are
of several slices, and have a table of their own. Without --write the tables are
printed.
"""

import json
import pathlib
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fnet_t5x import argument_parser, generated_page
from fnet_t5x.gin_root import gin_root

DOCS = generated_page.DOCS
PAGE = 'PLANS.md'
PLANS = 'measurements/plans'
SLICES = 'slices'
_ABOUT_SLICES = """\
Runs on several slices. Times and bytes are per chip and step. What goes to
other slices is a chip's share of the gradients; its time is at the rate that
Cloud TPU states for the network between slices (`fnet_t5x/costs/chips.py`; an
estimate for v4 alone), and is one of the times whose maximum is the roofline.
"""
BEGIN = '<!-- Table: python -m fnet_t5x.planning.tables -->'
# In the head of an experiment.
_EXPECTED = re.compile(r'^# Expected:.*$', re.MULTILINE)
_GIB = 2**30


def experiments(root: pathlib.Path) -> list[pathlib.Path]:
  """Returns the experiments with plans, of every size and source.

  Args:
    root: root of gin files.
  """
  return sorted(root.glob('gin/experiments/*_*_span_corruption.gin'))


def plan_of(experiment: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
  """Returns the file of an experiment's plan.

  Programs do not depend on the source of the text, so a run on the Pile has the
  same plan as the run on C4.

  Args:
    experiment: its gin file.
    folder: folder of the plans.
  """
  return folder / f'{experiment.stem.replace("_pile_", "_c4_")}.json'


def expected(content: Mapping[str, Any]) -> str:
  """Returns the line with the expected time for an experiment's head.

  Args:
    content: content of the plan's JSON file.
  """
  plan = content['plans'][0]
  days = ' to '.join(_days(plan))
  return f'# Expected: {days} days on {_slices(plan)} (docs/{PAGE}).'


def _slices(plan: Mapping[str, Any]) -> str:
  """Returns the slice, or the slices as `2 x v5e:4x4`."""
  count = plan.get('num_slices', 1)
  return plan['topology'] if count == 1 else f'{count} x {plan["topology"]}'


def _days(plan: Mapping[str, Any]) -> list[str]:
  """Returns the days by the roofline, then by the compiler if it has any."""
  return [
    f'{plan["estimates"][key]["days"]:,.1f}'
    for key in ('roofline', 'compiler')
    if key in plan.get('estimates', ())
  ]


def with_expected(text: str, line: str) -> str:
  """Returns an experiment's text with a new line for its expected time.

  Raises:
    ValueError: its head has no such line.
  """
  if not _EXPECTED.search(text):
    raise ValueError("the experiment's head has no line `# Expected:`")
  return _EXPECTED.sub(line, text, count=1)


def table(plans: Iterable[tuple[Sequence[str], Mapping[str, Any]]]) -> str:
  """Returns the table, the commands that made it, and notes.

  Args:
    plans: names of experiments with the content of their plan's JSON file, in
      the order of the rows.
  """
  rows, commands, notes = [], [], {}
  for names, content in plans:
    plan = content['plans'][0]
    mesh = ' x '.join(f'{axis} {size}' for axis, size in plan['mesh'].items())
    days = _days(plan)
    rows.append(
      [
        ', '.join(f'`{name}`' for name in names),
        _slices(plan),
        mesh,
        f'{plan["parameters"]["total"]:,}',
        f'{plan["training_flops"] / plan["tokens"] / 1e9:,.2f}',
        f'{plan["train"]["memory"] / _GIB:,.2f}',
        f'{plan["hbm_available"] / _GIB:,.2f}',
        days[0],
        days[1] if len(days) > 1 else '',
        content.get('commit') or '',
      ]
    )
    commands += _wrapped(content['command'])
    if content.get('copied'):
      notes.setdefault(content['copied'], []).append(plan['name'])
  heads = [
    'experiment',
    'slice',
    'mesh',
    'parameters',
    'GFLOPs per token',
    'GiB per device',
    'available',
    'days, roofline',
    'days, compiler',
    'commit',
  ]
  lines = [*generated_page.table(heads, rows), '', '```', *commands, '```']
  for note, names in notes.items():
    lines += ['', *textwrap.wrap(f'Copied ({", ".join(names)}): {note}', 80)]
  return '\n'.join(lines)


def slices_table(contents: Sequence[Mapping[str, Any]]) -> str:
  """Returns the table of plans for several slices, and their commands.

  A plan of one slice may stand beside them, to compare.

  Args:
    contents: contents of the plans' JSON files.
  """
  rows, commands = [], []
  for content in contents:
    plan = content['plans'][0]
    train, times = plan['train'], plan['train']['seconds']
    sent = sum(row.get('slice_bytes', 0) for row in train['collectives'])
    rows.append(
      [
        f'`{plan["name"]}`',
        _slices(plan),
        ' x '.join(f'{axis} {size}' for axis, size in plan['mesh'].items()),
        *(
          f'{times[key] * 1e3:,.1f}'
          for key in ('arithmetic', 'memory', 'network')
        ),
        f'{sent / 2**20:,.1f}',
        f'{times["slice_network"] * 1e3:,.1f}',
        _days(plan)[0],
      ]
    )
    commands += _wrapped(content['command'])
  heads = [
    'experiment',
    'slices',
    'mesh',
    'ms, arithmetic',
    'memory',
    'network',
    'MiB to other slices',
    'ms, between slices',
    'days, roofline',
  ]
  return '\n'.join(
    [
      _ABOUT_SLICES,
      *generated_page.table(heads, rows),
      *('', '```', *commands, '```'),
    ]
  )


def _wrapped(command: str) -> list[str]:
  """Returns a command wrapped with shell line continuations."""
  first, *rest = textwrap.wrap(
    command, 76, break_long_words=False, break_on_hyphens=False
  )
  lines = [first, *(f'  {line}' for line in rest)]
  return [f'{line} \\' for line in lines[:-1]] + lines[-1:]


def read(
  root: pathlib.Path, folder: pathlib.Path
) -> list[tuple[list[pathlib.Path], dict[str, Any]]]:
  """Returns experiments with the content of their plan, small models first.

  Args:
    root: root of gin files.
    folder: folder of the plans.
  """
  found: dict[pathlib.Path, list[pathlib.Path]] = {}
  for experiment in experiments(root):
    found.setdefault(plan_of(experiment, folder), []).append(experiment)
  plans = [
    (names, json.loads(path.read_text()))
    for path, names in found.items()
    if path.exists()
  ]
  return sorted(
    plans, key=lambda each: each[1]['plans'][0]['parameters']['total']
  )


def read_slices(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the contents of the plans for several slices, and one beside them.

  Args:
    folder: folder of the plans.
  """
  found = [json.loads(path.read_text()) for path in folder.glob('*.json')]
  return sorted(
    found,
    key=lambda each: (
      each['plans'][0]['parameters']['total'],
      each['plans'][0]['num_slices'],
    ),
  )


def text_of(root: pathlib.Path, folder: pathlib.Path) -> str:
  """Returns what docs/PLANS.md has between its marks.

  Args:
    root: root of gin files.
    folder: folder of the plans.
  """
  first = table(
    [
      ([path.stem for path in paths], each)
      for paths, each in read(root, folder)
    ]
  )
  several = read_slices(folder / SLICES)
  return f'{first}\n\n{slices_table(several)}' if several else first


def main(arguments: Sequence[str] | None = None) -> None:
  """Prints the table, or writes it and the expected times to files."""
  parser = argument_parser.ArgumentParser('fnet_t5x.planning.tables', __doc__)
  parser.add_argument(
    '--write',
    action='store_true',
    help=f'write docs/{PAGE} and the heads of experiments',
  )
  options = parser.parse_args(arguments)
  root, folder = pathlib.Path(gin_root()), DOCS / PLANS
  text = text_of(root, folder)
  if not options.write:
    print(text)
    return
  page = DOCS / PAGE
  page.write_text(generated_page.with_tables(page.read_text(), text, BEGIN))
  for paths, content in read(root, folder):
    for path in paths:
      path.write_text(with_expected(path.read_text(), expected(content)))


if __name__ == '__main__':
  main()
