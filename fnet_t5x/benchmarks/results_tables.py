"""Markdown tables of docs/RESULTS.md, from the records of benchmarks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fnet_t5x.benchmarks import encoders, inference, mixing, quality_summary
from fnet_t5x.generated_page import table

Record = Mapping[str, Any]
Lines = list[str]


def groups(
  records: Sequence[Record], *fields: str
) -> list[tuple[tuple[Any, ...], list[Record]]]:
  """Returns the values of some fields, each with its records, in order."""
  found: dict[tuple[Any, ...], list[Record]] = {}
  for record in records:
    # JSON has lists for tuples.
    key = tuple(
      tuple(record[field]) if isinstance(record[field], list) else record[field]
      for field in fields
    )
    found.setdefault(key, []).append(record)
  return list(found.items())


def mixing_tables(records: Sequence[Record]) -> list[Lines]:
  """Returns a table per shape: median times, and speedups over FNet's."""
  heads = ['forward, ms', 'speedup', 'forward + backward, ms', 'speedup']
  return [
    _headed(mixing.as_section(of_shape), heads)
    for _, of_shape in groups(records, 'shape')
  ]


def encoders_tables(records: Sequence[Record]) -> list[Lines]:
  """Returns a table per length: median times, and speedups over BERT."""
  heads = ['forward, ms', 'speedup', 'forward + backward, ms', 'speedup']
  return [
    _headed(encoders.as_section(of_length), heads)
    for _, of_length in groups(records, 'length')
  ]


def inference_tables(records: Sequence[Record]) -> list[Lines]:
  """Returns two tables per prefix and batch size: costs, and their parts."""
  blocks = []
  for _, found in groups(records, 'prefix', 'rows'):
    blocks.append(
      _headed(inference.as_section(found), list(inference.COLUMNS[1:]))
    )
    parts = [_parts(record) for record in found if 'skipped' not in record]
    if parts:
      blocks.append(table(_PARTS, parts))
  return blocks


_PARTS = (
  'where the time goes',
  'encoder, ms',
  'caches and first step, ms',
  'per further token, ms',
  'prefix, GFLOPs per row',
  'of it attention, %',
  'prefix, GFLOP/s',
)


def _parts(record: Record) -> list[str]:
  """Returns the parts of a generation's time as cells."""
  flops = record.get('prefix_flops')
  cells = [
    _cell(record.get('encode_seconds'), 1e3),
    _cell(record['prefill_seconds'], 1e3),
    _cell(record['token_seconds'], 1e3),
    _cell(flops, 1e-9),
  ]
  if flops:
    share = record['prefix_attention_flops'] / flops
    rate = flops * record['rows'] / record['first_token_seconds']
    cells += [f'{100 * share:.0f}', _cell(rate, 1e-9)]
  else:
    cells += ['-', '-']
  return [record['model'], *cells]


def quality_tables(records: Sequence[Record]) -> list[Lines]:
  """Returns a table of medians over seeds, and one of each run's loss."""
  seeds = [seed for (seed,), _ in groups(records, 'seed')]
  losses = {
    (record['model'], record['seed']): f'{record["loss"]:.4f}'
    for record in records
  }
  by_seed = [
    [model, *(losses.get((model, seed), '') for seed in seeds)]
    for (model,), _ in groups(records, 'model')
  ]
  return [
    table(quality_summary.COLUMNS, quality_summary.as_rows(records)),
    table(['loss', *(f'seed {seed}' for seed in seeds)], by_seed),
  ]


TABLES: dict[str, Callable[[Sequence[Record]], list[Lines]]] = {
  'mixing': mixing_tables,
  'encoders': encoders_tables,
  'inference': inference_tables,
  'quality': quality_tables,
}


def _headed(cells: Sequence[Sequence[str]], heads: Sequence[str]) -> Lines:
  """Returns a terminal's section as a table, headed by its first line."""
  # The backslash is for the terminal; indentation is, too.
  first = cells[0][0].replace('\\', '')
  rows = [[line[0].strip(), *line[1:]] for line in cells[1:]]
  return table([first, *heads], rows)


def _cell(value: float | None, factor: float) -> str:
  return '-' if value is None else f'{value * factor:.4g}'
