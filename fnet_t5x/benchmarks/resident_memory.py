"""Memory growth over many saves: `fnet_t5x.benchmarks.resident_memory`.

  python -m fnet_t5x.benchmarks.resident_memory --steps=5000 --save_period=4

Trains a tiny hybrid by gin/experiments/quickstart.gin in a subprocess that
saves and evaluates often, and reads its resident memory, without file pages,
from outside. Since saves need memory for a while, the run is cut into parts,
and the lowest reading of each counts. Growth is the slope of a line through
those, with its standard error, without the first third of the run, in which the
allocator reaches its size. Linux only.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fnet_t5x import argument_parser, command_line, result_table, run_metrics

GIN_FILE = 'gin/experiments/quickstart.gin'
# Macros of a model so small that a step takes almost no time.
TINY = {
  'BATCH_SIZE': 4,
  'TASK_FEATURE_LENGTHS': {'inputs': 16, 'targets': 16},
  'VOCAB_SIZE': 384,
  'EMBED_DIM': 8,
  'HEAD_DIM': 4,
  'NUM_HEADS': 2,
  'MLP_DIM': 16,
  'NUM_ENCODER_LAYERS': 2,
  'NUM_ATTENTION_LAYERS': 1,
  'NUM_DECODER_LAYERS': 1,
  'EVAL_STEPS': 1,
  'vocabularies.default_vocabulary.vocab_size': 160,
}
_PARTS = 15
_WARM_PARTS = 10
_POLL_SECONDS = 0.1

Reading = tuple[int, int]


class Growth(NamedTuple):
  """A trend of resident memory.

  Attributes:
    per_step: bytes.
    standard_error: of `per_step`.
  """

  per_step: float
  standard_error: float


def measure(steps: int, save_period: int, eval_period: int) -> list[Reading]:
  """Trains, and reads the memory whenever a step is reported.

  Args:
    steps: number of training steps.
    save_period: steps between checkpoints, and between reports.
    eval_period: steps between evaluations.

  Returns:
    (step, resident bytes) pairs.

  Raises:
    RuntimeError: if the run fails; the message has its last lines.
  """
  periods = {
    'TRAIN_STEPS': steps,
    'SAVE_PERIOD': save_period,
    'STATS_PERIOD': save_period,
    'EVAL_PERIOD': eval_period,
  }
  readings: list[Reading] = []
  with tempfile.TemporaryDirectory() as folder:
    model_dir = pathlib.Path(folder, 'model')
    bindings = {'MODEL_DIR': str(model_dir), **TINY, **periods}
    log = pathlib.Path(folder, 'log')
    with log.open('w') as f:
      process = subprocess.Popen(
        [
          *(sys.executable, '-m', 'fnet_t5x.train', f'--gin_file={GIN_FILE}'),
          *(f'--gin.{name}={value!r}' for name, value in bindings.items()),
        ],
        env={**os.environ, command_line.COMMANDS_VARIABLE: '0'},
        stdout=f,
        stderr=subprocess.STDOUT,
      )
    try:
      while process.poll() is None:
        time.sleep(_POLL_SECONDS)
        step = _last_step(model_dir / run_metrics.FILE)
        if step > (readings[-1][0] if readings else 0):
          readings += _read(process.pid, step)
    finally:
      process.terminate()
      process.wait()
    if process.returncode:
      last = log.read_text(errors='replace').splitlines()[-5:]
      raise RuntimeError('\n'.join(['the run failed:', *last]))
  return readings


def lowest(readings: Sequence[Reading]) -> list[Reading]:
  """Returns the lowest reading in each of 15 parts of the run.

  Raises:
    ValueError: if there are fewer readings than parts.
  """
  if len(readings) < _PARTS:
    raise ValueError('the run was too short for a trend; use more --steps')
  parts = np.array_split(np.array(readings), _PARTS)
  return [tuple(part[part[:, 1].argmin()].tolist()) for part in parts]


def growth(readings: Sequence[Reading]) -> Growth:
  """Returns the trend of memory after the warm-up.

  Raises:
    ValueError: if there are too few readings.
  """
  steps, resident = np.array(lowest(readings)[-_WARM_PARTS:], np.float64).T
  steps = steps - steps.mean()
  slope = steps @ resident / (steps @ steps)
  rest = resident - resident.mean() - slope * steps
  variance = rest @ rest / (_WARM_PARTS - 2) / (steps @ steps)
  return Growth(float(slope), float(np.sqrt(variance)))


def _last_step(path: pathlib.Path) -> int:
  try:
    with path.open('rb') as f:
      f.seek(max(0, path.stat().st_size - 4096))
      rows = run_metrics.parse(f).rows
  except FileNotFoundError:
    return 0
  return max((row['step'] for row in rows), default=0)


def _read(pid: int, step: int) -> list[Reading]:
  """Returns one reading, or none if the process has just ended."""
  try:
    words = pathlib.Path(f'/proc/{pid}/statm').read_text().split()
    # Without file pages, which the kernel may evict at any time.
    pages = int(words[1]) - int(words[2])
  except (OSError, IndexError):
    return []
  return [(step, pages * os.sysconf('SC_PAGE_SIZE'))] if pages else []


def parse(arguments: list[str] | None) -> argparse.Namespace:
  """Parses the command line; exits on invalid input."""
  parser = argument_parser.ArgumentParser(
    'fnet_t5x.benchmarks.resident_memory', __doc__
  )
  parser.add_argument(
    '--steps', type=int, default=5000, help='number of training steps'
  )
  parser.add_argument(
    '--save_period', type=int, default=4, help='steps between checkpoints'
  )
  parser.add_argument(
    '--eval_period', type=int, default=100, help='steps between evaluations'
  )
  options = result_table.parse(parser, arguments)
  if min(options.steps, options.save_period, options.eval_period) < 1:
    parser.error('--steps, --save_period and --eval_period: at least 1')
  if sys.platform != 'linux':
    parser.error('memory is read from /proc: Linux only')
  return options


def rows(readings: Sequence[Reading], save_period: int) -> list[dict[str, Any]]:
  """Returns the lowest readings as records."""
  return [
    {'step': step, 'saves': step // save_period, 'resident_bytes': resident}
    for step, resident in lowest(readings)
  ]


def _cells(row: Mapping[str, Any]) -> list[str]:
  resident = f'{row["resident_bytes"] / 2**20:,.1f}'
  return [f'{row["step"]:,}', f'{row["saves"]:,}', resident]


def main(arguments: list[str] | None = None) -> None:
  """Trains, prints a table, and writes the JSON file."""
  options = parse(arguments)
  names = ('steps', 'save_period', 'eval_period')
  settings = {name: getattr(options, name) for name in names}
  readings = measure(**settings)
  trend = growth(readings)
  found = rows(readings, options.save_period)
  result_table.print_table(
    f'a save every {options.save_period} steps, an evaluation every '
    f'{options.eval_period}',
    ['step', 'saves', 'lowest resident MiB'],
    [[_cells(row) for row in found]],
  )
  per_save, error = (each * options.save_period for each in trend)
  print(
    f'growth after the warm-up: {per_save / 1024:.1f} KiB per save, standard '
    f'error {error / 1024:.1f}'
  )
  if options.json:
    settings |= {'bytes_per_save': per_save, 'standard_error': error}
    result_table.write_json(options.json, 'resident_memory', settings, found)


if __name__ == '__main__':
  with command_line.one_line_errors():
    main()
