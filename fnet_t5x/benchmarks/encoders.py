"""FNet's speed against BERT's: `python -m fnet_t5x.benchmarks.encoders`.

  python -m fnet_t5x.benchmarks.encoders --lengths 512 1024 --rows 2

For each length, times whole encoders of one size with the published heads for
pretraining: the loss of 15 % of the tokens and of the sentence pairs, forward,
and forward with backward. Prints the median time per call, and the speedup over
BERT in the same run. Rows are full, and there is no dropout.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import numpy as np

from fnet_t5x import absent_tpu, argument_parser, result_table
from fnet_t5x.benchmarks.accelerator import encoder_networks
from fnet_t5x.benchmarks.timing import speedup, time_in_turns

LENGTHS = (512, 1024, 2048, 4096)


def measure(options: argparse.Namespace, length: int) -> list[dict[str, Any]]:
  """Times every encoder at one length.

  Returns:
    One record per encoder and direction, with median and minimum seconds,
    rounds, and `speedup` over BERT.
  """
  from fnet_t5x.benchmarks.accelerator import encoders

  rows = options.rows or max(options.tokens // length, 1)
  records = []
  for backward in (False, True):
    calls = {}
    for name in options.encoders:
      module = encoder_networks.make_network(
        name, options.size, options.layers, length, options.dtype
      )
      batch = encoders.make_batch(rows, length, module.config.vocab_size)
      params = encoders.make_params(module, batch)
      program = encoders.compile_loss(module, params, batch, backward)
      calls[name] = functools.partial(program, params, batch)
    times = time_in_turns(calls, rounds=options.rounds, seconds=options.seconds)
    records += [
      {
        'length': length,
        'rows': rows,
        'encoder': name,
        'direction': 'forward+backward' if backward else 'forward',
        'median_seconds': float(np.median(taken)),
        'least_seconds': float(taken.min()),
        'rounds': len(taken),
        'speedup': speedup(times[encoder_networks.BASELINE], taken),
      }
      for name, taken in times.items()
    ]
  return records


def as_section(records: list[dict[str, Any]]) -> list[list[str]]:
  """Returns one length's records as rows of cells."""
  first = records[0]
  cells = [[f'{first["length"]} tokens x {first["rows"]}', '', '', '', '']]
  for name in dict.fromkeys(record['encoder'] for record in records):
    line = ['  ' + name]
    for record in records:
      if record['encoder'] == name:
        line += [
          f'{1e3 * record["median_seconds"]:.1f}',
          f'{record["speedup"]:.2f}x',
        ]
    cells.append(line)
  return cells


def parse(arguments: list[str] | None) -> argparse.Namespace:
  """Parses the command line; exits on invalid input."""
  parser = argument_parser.ArgumentParser(
    'fnet_t5x.benchmarks.encoders', __doc__
  )
  parser.add_argument(
    '--lengths', type=int, nargs='+', default=LENGTHS, help='tokens per row'
  )
  parser.add_argument('--size', default='base', choices=encoder_networks.SIZES)
  parser.add_argument(
    '--layers',
    type=int,
    help="layers, by default the size's; BERT of 12 layers saves about 30 GB "
    'for the backward pass of one row of 4096 tokens',
  )
  parser.add_argument(
    '--encoders',
    nargs='+',
    default=(encoder_networks.BASELINE, 'FNet'),
    choices=encoder_networks.ENCODERS,
    help=f'which to time; {encoder_networks.BASELINE} always is',
  )
  parser.add_argument('--rows', type=int, help='rows per batch')
  parser.add_argument(
    '--tokens',
    type=int,
    default=4096,
    help='without --rows, tokens per batch: rows = tokens / length, at least '
    'one',
  )
  parser.add_argument('--dtype', default='float32', help='float32 or bfloat16')
  parser.add_argument(
    '--rounds', type=int, default=10, help='maximum number of timed rounds'
  )
  parser.add_argument(
    '--seconds',
    type=float,
    default=60.0,
    help='time per length and direction after which no round begins; three '
    'rounds are always timed',
  )
  options = result_table.parse(parser, arguments)
  if options.layers is None:
    options.layers = encoder_networks.LAYERS[options.size]
  options.encoders = list(
    dict.fromkeys((encoder_networks.BASELINE, *options.encoders))
  )
  numbers = [*options.lengths, options.layers, options.tokens, options.rounds]
  if min(numbers) < 1 or (options.rows is not None and options.rows < 1):
    parser.error(
      '--lengths, --layers, --rows, --tokens and --rounds must be at least 1'
    )
  if options.dtype not in ('float32', 'bfloat16'):
    parser.error(f'--dtype {options.dtype}: choose float32 or bfloat16')
  return options


def main(arguments: list[str] | None = None) -> None:
  """Measures every length, prints the table, and writes the JSON file."""
  options = parse(arguments)
  measured = [measure(options, length) for length in options.lengths]
  where = result_table.environment()
  result_table.print_table(
    f'{where["device"]}, {options.size}, {options.layers} layers, '
    f'{options.dtype}: median ms, and speedup over {encoder_networks.BASELINE}',
    ['', 'forward', '', 'forward+backward', ''],
    [as_section(records) for records in measured],
  )
  if options.json:
    settings = {
      name: value for name, value in vars(options).items() if name != 'json'
    }
    rows = [record for section in measured for record in section]
    result_table.write_json(options.json, 'encoders', settings, rows)


if __name__ == '__main__':
  absent_tpu.hide_library()
  main()
