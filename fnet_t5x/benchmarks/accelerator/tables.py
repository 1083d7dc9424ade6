"""Tables of docs/ACCELERATOR.md, from the JSON files in docs/measurements.

  python -m fnet_t5x.benchmarks.accelerator.tables --write

writes them into the page; without --write they are printed.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fnet_t5x import argument_parser
from fnet_t5x.generated_page import DOCS, table, with_tables

Row = Mapping[str, Any]
Lines = list[str]

PAGE = 'ACCELERATOR.md'
BEGIN = '<!-- Tables: python -m fnet_t5x.benchmarks.accelerator.tables -->'


def tables(folder: pathlib.Path) -> str:
  """Returns the tables of the latest runs in a folder of JSON files."""
  parts = [run_text(name, content) for name, content in latest_runs(folder)]
  return '\n\n'.join(parts) or 'There are no runs yet.'


def latest_runs(folder: pathlib.Path) -> list[tuple[str, Any]]:
  """Returns file name and content of the last run on each device.

  The last by file name: the kit's names have the date in them.

  Args:
    folder: folder of the files; other JSON files in it are ignored.
  """
  runs = {}
  for path in sorted(folder.glob('*.json')):
    content = json.loads(path.read_text())
    if {'format', 'header', 'rows'} <= content.keys():
      header = content['header']
      key = header.get('device_kind'), header.get('toy')
      runs[key] = (path.name, content)
  return list(runs.values())


def run_text(name: str, content: Mapping[str, Any]) -> str:
  """Returns one run's heading and tables."""
  header = content['header']
  versions = header.get('versions', {})
  toy = header.get('toy')
  title = header.get('card') or header.get('device_kind', 'unknown device')
  title = title.split(',')[0]
  lines = [f'### {title}' + (' (toy run: format only)' * bool(toy))]
  facts = [
    header.get('date'),
    f'commit {header["commit"]}' if header.get('commit') else None,
    *(f'{package} {version}' for package, version in versions.items()),
    f'Python {header.get("python")}',
    f'ended: {content.get("ended") or "killed"}',
  ]
  lines += ['', '; '.join(filter(None, facts)) + '.']
  if header.get('card'):
    lines += ['', f'Card, driver, memory, clock, power: {header["card"]}.']
  lines += ['', f'`{header.get("command")}` (`docs/measurements/{name}`)']
  sections = dict.fromkeys(row['section'] for row in content['rows'])
  for section in sections:
    rows = [row for row in content['rows'] if row['section'] == section]
    done = [row for row in rows if row['status'] == 'ok']
    lines += ['', f'**{section.capitalize()}**']
    for block in _TABLES.get(section, any_table)(done):
      lines += ['', *block]
    lines += _left_out(rows)
  return '\n'.join(lines)


def ceilings_tables(rows: Iterable[Row]) -> list[Lines]:
  """Returns the copy's and the products' rates."""
  cells = []
  for row in rows:
    labels, result = row['labels'], row['result']
    if labels['case'] == 'copy':
      what = f'copy of {labels["bytes"] / 2**20:.0f} MiB'
      rate = f'{result["bytes_per_second"] / 1e9:.0f} GB/s, read + write'
    else:
      n = labels['size']
      what = f'product of [{n}, {n}] {labels["dtype"]}'
      rate = f'{result["flops_per_second"] / 1e12:.2f} TFLOP/s'
    cells.append([what, rate, _number(result['compile_seconds'])])
  return [table(['', 'rate', 'compile time, s'], cells)] if cells else []


def mixing_tables(rows: Sequence[Row]) -> list[Lines]:
  """Returns a table per shape: times of each case, and their ratios."""
  blocks = []
  for shape in dict.fromkeys(tuple(row['labels']['shape']) for row in rows):
    of_shape = [row for row in rows if tuple(row['labels']['shape']) == shape]
    found = {
      (row['labels']['case'], row['labels']['direction']): row['result']
      for row in of_shape
    }
    cells = []
    for case in dict.fromkeys(row['labels']['case'] for row in of_shape):
      line = [case]
      for direction in ('forward', 'forward+backward'):
        result = found.get((case, direction), {})
        line += [
          _scaled(result.get('run_seconds'), 1e6),
          _number(result.get('times_fnet')),
          _number(result.get('times_floor')),
        ]
      line.append(
        _scaled(found.get((case, 'once per batch'), {}).get('run_seconds'), 1e6)
      )
      cells.append(line)
    blocks.append(
      table(
        [
          str(list(shape)),
          'forward, us',
          '/ FNet',
          '/ floor',
          'forward + backward, us',
          '/ FNet',
          '/ floor',
          'once per batch, us',
        ],
        cells,
      )
    )
  return blocks


def training_tables(rows: Sequence[Row]) -> list[Lines]:
  """Returns a table of training steps, and one of their parts."""
  steps, parts = [], []
  for row in rows:
    labels, result = row['labels'], row['result']
    if labels['case'] == 'step':
      shape = f'{labels["rows"]} x {labels["inputs"]}/{labels["targets"]}'
      steps.append(
        [
          f'{labels["size"]}, {labels["network"]}, {labels["packing"]}',
          shape,
          _scaled(result['run_seconds'], 1e3),
          _number(result.get('speed_of_t5')),
          _number(result['sequences_per_second']),
          _scaled(result['flops_per_second'], 1e-12),
          _percent(result.get('share_of_matmul')),
          _scaled(result.get('peak_bytes'), 1e-9),
          _number(result['compile_seconds']),
        ]
      )
    elif labels['case'] == 'parts':
      names = [name for name in result if name != 'step_seconds']
      parts.append(
        [f'{labels["size"]}, {labels["network"]}']
        + [_scaled(result[name], 1e3) for name in (*names, 'step_seconds')]
      )
      heads = [
        name.removesuffix('_seconds').replace('_', ' ') for name in names
      ]
  blocks = []
  if steps:
    heads_of_steps = [
      'training step',
      'rows x inputs/targets',
      'ms',
      'speedup over T5',
      'sequences/s',
      'TFLOP/s',
      '% of matmul rate',
      'memory, GB',
      'compile time, s',
    ]
    blocks.append(table(heads_of_steps, steps))
  if parts:
    blocks.append(table(['parts alone, ms', *heads, 'step'], parts))
  return blocks


def generation_tables(rows: Sequence[Row]) -> list[Lines]:
  """Returns one table: times of prefill and steps, and bytes of the cache."""
  cells = []
  for row in rows:
    labels, result = row['labels'], row['result']
    shape = f'{labels["rows"]} x {labels["prefix"]} + {labels["tokens"]}'
    cells.append(
      [f'{labels["size"]}, {labels["network"]}', shape]
      + [
        _scaled(result.get(f'{name}_seconds'), 1e3)
        for name in ('encode', 'first_token', 'token', 'all')
      ]
      + [
        _number(result.get('tokens_per_second')),
        _number(result.get('speed_of_t5')),
        _scaled(result.get('self_cache_bytes'), 1e-6),
        _scaled(result.get('cross_cache_bytes'), 1e-6),
      ]
    )
  heads = [
    'generation',
    'rows x prefix + tokens',
    'encoding, ms',
    'to the first token, ms',
    'per token, ms',
    'all, ms',
    'tokens/s',
    'speedup over T5',
    'self cache, MB',
    'cross cache, MB',
  ]
  return [table(heads, cells)] if cells else []


def encoders_tables(rows: Sequence[Row]) -> list[Lines]:
  """Returns one table: pretraining of encoders beside BERT's."""
  cells = []
  for row in rows:
    labels, result = row['labels'], row['result']
    cells.append(
      [
        f'{labels["size"]}, {labels["encoder"]}',
        str(labels['layers']),
        f'{labels["rows"]} x {labels["length"]}',
        _scaled(result['run_seconds'], 1e3),
        _number(result['sequences_per_second']),
        _number(result.get('speed_of_bert')),
      ]
    )
  heads = [
    'forward + backward',
    'layers',
    'rows x length',
    'ms',
    'sequences/s',
    'speedup over BERT',
  ]
  return [table(heads, cells)] if cells else []


def quality_tables(rows: Sequence[Row]) -> list[Lines]:
  """Returns losses at shares of the time, and at equal numbers of steps."""
  runs: dict[str, list[Row]] = {}
  for row in rows:
    labels = row['labels']
    if labels['case'] == 'point':
      name = f'{labels["size"]}, {labels["network"]}, seed {labels["seed"]}'
      runs.setdefault(name, []).append(row)
  blocks = []
  for kind, head, key in (
    ('time', 'loss at equal times', _quarter),
    ('steps', 'loss at equal steps', lambda result: result['steps']),
  ):
    points = {
      name: {
        key(row['result']): row['result']
        for row in found
        if row['labels']['at'] == kind
      }
      for name, found in runs.items()
    }
    columns = sorted(set().union(*points.values()))
    if not columns:
      continue
    unit = ' %' if kind == 'time' else ''
    cells = [
      [name, *(_loss(found.get(column), kind) for column in columns)]
      for name, found in points.items()
    ]
    blocks.append(table([head, *(f'{c}{unit}' for c in columns)], cells))
  return blocks


def _quarter(result: Mapping[str, float]) -> int:
  """Returns the share of the time in percent, to the nearest quarter."""
  return 25 * round(4 * result['share'])


def _loss(result: Mapping[str, float] | None, kind: str) -> str:
  if result is None:
    return ''
  text = f'{result["loss"]:.3f} ± {result["standard_error"]:.3f}'
  return text + (f' ({result["steps"]} steps)' if kind == 'time' else '')


def any_table(rows: Sequence[Row]) -> list[Lines]:
  """Returns one table per set of columns among a section's rows.

  Columns are the labels, then the numeric figures.
  """
  blocks: dict[tuple, list[list[str]]] = {}
  for row in rows:
    figures = {
      name: value
      for name, value in row['result'].items()
      if isinstance(value, int | float) and name != 'case_seconds'
    }
    columns = (*row['labels'], *figures)
    cells = [str(value) for value in row['labels'].values()]
    cells += [_number(value) for value in figures.values()]
    blocks.setdefault(columns, []).append(cells)
  return [
    table([name.replace('_', ' ') for name in columns], cells)
    for columns, cells in blocks.items()
  ]


_TABLES: dict[str, Callable[[Sequence[Row]], list[Lines]]] = {
  'ceilings': ceilings_tables,
  'mixing': mixing_tables,
  'training': training_tables,
  'generation': generation_tables,
  'encoders': encoders_tables,
  'quality': quality_tables,
}


def _left_out(rows):
  """Returns a line per reason, with the cases that have no figures."""
  reasons: dict[tuple[str, str], list[str]] = {}
  for row in rows:
    if row['status'] != 'ok':
      key = row['status'], row['result']['reason']
      text = ', '.join(map(str, row['labels'].values()))
      reasons.setdefault(key, []).append(text)
  if not reasons:
    return []
  return [''] + [
    f'* {status}: {"; ".join(cases)}: {reason}'
    for (status, reason), cases in reasons.items()
  ]


def _number(value: float | None) -> str:
  if value is None:
    return ''
  if isinstance(value, int) or abs(value) >= 1000:
    return f'{value:.0f}'
  return f'{value:.3g}'


def _scaled(value: float | None, factor: float) -> str:
  return '' if value is None else _number(value * factor)


def _percent(value: float | None) -> str:
  return '' if value is None else f'{100 * value:.1f} %'


def main(arguments: Sequence[str] | None = None) -> None:
  """Prints the tables, or writes them into the page."""
  parser = argument_parser.ArgumentParser(
    'fnet_t5x.benchmarks.accelerator.tables', __doc__
  )
  parser.add_argument(
    '--write', action='store_true', help=f'write to docs/{PAGE}, do not print'
  )
  options = parser.parse_args(arguments)
  text = tables(DOCS / 'measurements')
  if not options.write:
    print(text)
    return
  page = DOCS / PAGE
  page.write_text(with_tables(page.read_text(), text, BEGIN))


if __name__ == '__main__':
  main()
