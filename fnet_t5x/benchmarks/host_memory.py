"""Gain of reusing freed memory: `python -m fnet_t5x.benchmarks.host_memory`.

  python -m fnet_t5x.benchmarks.host_memory --size=tiny --rounds=1

Times training steps of our hybrid with the embedded runtime on a CPU, in turns
in processes that keep freed memory (`fnet_t5x/host_memory.py`, as in training)
and in processes that return it. A page is 4 KiB, zeroed by the kernel.
"""

import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

from fnet_t5x import (
  absent_tpu,
  argument_parser,
  command_line,
  host_memory,
  result_table,
)
from fnet_t5x.benchmarks import engines
from fnet_t5x.benchmarks.timing import speedup

SIDES = ('returned', 'kept')
_WARM_STEPS = 3


def measure_here(
  size: str, batch: int, inputs: int, steps: int
) -> dict[str, Any]:
  """Runs training steps in this process.

  Returns:
    `seconds` of each step, `pages` per step, and `peak` bytes of the process.
  """
  import jax

  lengths = engines.Lengths(batch=batch, inputs=inputs)
  call = engines.train_call('runtime', 'our hybrid', size, lengths, steps=1)
  for _ in range(_WARM_STEPS):
    jax.block_until_ready(call())
  before = resource.getrusage(resource.RUSAGE_SELF)
  seconds = []
  for _ in range(steps):
    start = time.perf_counter()
    jax.block_until_ready(call())
    seconds.append(time.perf_counter() - start)
  after = resource.getrusage(resource.RUSAGE_SELF)
  return {
    'seconds': seconds,
    'pages': (after.ru_minflt - before.ru_minflt) / steps,
    'peak': after.ru_maxrss * 1024,
  }


def measure(
  size: str, batch: int, inputs: int, steps: int, rounds: int
) -> list[dict[str, Any]]:
  """Measures both sides, with one process each per round.

  Returns:
    One record per side: median and minimum seconds per step, pages per step and
    peak bytes (medians over rounds), and `speedup` over the first side: the
    median over rounds of the ratio of medians.
  """
  found: dict[str, list] = {side: [] for side in SIDES}
  for _ in range(rounds):
    for side in SIDES:
      found[side].append(_in_process(side, size, batch, inputs, steps))
  medians = {
    side: np.array([np.median(each['seconds']) for each in rounds_of])
    for side, rounds_of in found.items()
  }
  return [
    {
      'size': size,
      'side': side,
      'median_seconds': float(np.median(medians[side])),
      'least_seconds': min(min(each['seconds']) for each in rounds_of),
      'pages': float(np.median([each['pages'] for each in rounds_of])),
      'peak_bytes': float(np.median([each['peak'] for each in rounds_of])),
      'speedup': speedup(medians[SIDES[0]], medians[side]),
    }
    for side, rounds_of in found.items()
  ]


def _in_process(side, size, *counts):
  words = (side, size, *map(str, counts))
  done = subprocess.run(
    [sys.executable, '-m', 'fnet_t5x.benchmarks.host_memory', '--here', *words],
    stdout=subprocess.PIPE,
    check=True,
  )
  return json.loads(done.stdout.splitlines()[-1])


def _here(side: str, size: str, *counts: str) -> None:
  if side == 'kept' and not host_memory.keep_freed_memory():
    sys.exit('memory is kept only on Linux machines without accelerators')
  command_line.import_tensorflow()
  print(json.dumps(measure_here(size, *map(int, counts))))


def main(arguments: list[str] | None = None) -> None:
  """Measures, prints a table, and writes the JSON file."""
  parser = argument_parser.ArgumentParser(
    'fnet_t5x.benchmarks.host_memory', __doc__
  )
  parser.add_argument(
    '--size', default='tiny', choices=engines.SIZES, help='model size'
  )
  parser.add_argument('--batch', type=int, default=4, help='rows')
  parser.add_argument(
    '--inputs', type=int, default=512, help='input tokens per row'
  )
  parser.add_argument(
    '--steps', type=int, default=20, help='timed steps per process'
  )
  parser.add_argument(
    '--rounds', type=int, default=3, help='processes per side'
  )
  options = result_table.parse(parser, arguments)
  names = ('batch', 'inputs', 'steps', 'rounds')
  counts = {name: getattr(options, name) for name in names}
  if min(counts.values()) < 1:
    parser.error('--batch, --inputs, --steps and --rounds: at least 1')
  rows = measure(options.size, **counts)
  result_table.print_table(
    f'{options.size}, training step of {options.batch} rows of '
    f'{options.inputs} inputs, with freed memory',
    ['', 'ms', '', 'pages per step', 'peak GiB'],
    [
      [
        [
          row['side'],
          f'{1e3 * row["median_seconds"]:.1f}',
          f'{row["speedup"]:.2f}x',
          f'{row["pages"]:,.0f}',
          f'{row["peak_bytes"] / 2**30:.2f}',
        ]
        for row in rows
      ]
    ],
  )
  if options.json:
    settings = {'size': options.size, **counts}
    result_table.write_json(options.json, 'host_memory', settings, rows)


if __name__ == '__main__':
  absent_tpu.hide_library()
  if sys.argv[1:2] == ['--here']:
    _here(*sys.argv[2:])
  else:
    main()
