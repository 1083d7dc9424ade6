"""Command line of the kit."""

from __future__ import annotations

import argparse
import math
import os
import pathlib
import sys
import time
from collections.abc import Sequence

from fnet_t5x import absent_tpu, argument_parser, environment
from fnet_t5x.benchmarks.accelerator import (
  sections,
  shape_annotations,
)
from fnet_t5x.benchmarks.accelerator.bench import Bench, Setting, one_line
from fnet_t5x.benchmarks.accelerator.results import Results
from fnet_t5x.benchmarks.accelerator.time_budget import (
  TimeBudget,
  process_age,
)
from fnet_t5x.benchmarks.accelerator.watchdog import Watchdog

_DESCRIPTION = """\
Benchmarks this project on one accelerator, within a given number of minutes.

  python -m fnet_t5x.benchmarks.accelerator --minutes 8 --out results
  python -m fnet_t5x.benchmarks.accelerator --toy --minutes 1 --out results

Results are printed and written to a JSON file in --out as they come, so that
the run may be killed at any time. docs/ACCELERATOR.md describes the sections.
"""
# Seconds between the end of the sections and the limit, to write the last
# result and shut JAX down.
_MARGIN = 2.0
# A toy run's figures mean nothing, and it mostly compiles.
_TOY_FLAGS = (
  '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
  """Parses the command line; exits on invalid input."""
  parser = argument_parser.ArgumentParser(
    'fnet_t5x.benchmarks.accelerator', _DESCRIPTION
  )
  parser.add_argument(
    '--minutes', type=float, default=8.0, help='time limit of the whole run'
  )
  parser.add_argument(
    '--out', type=pathlib.Path, metavar='DIR', help='folder for the JSON file'
  )
  names = ','.join(section.name for section in sections.SECTIONS)
  parser.add_argument(
    '--sections', default=names, help='sections to run, comma-separated'
  )
  parser.add_argument(
    '--toy', action='store_true', help='tiny sizes, to try the kit on a CPU'
  )
  parser.add_argument(
    '--corpus',
    type=pathlib.Path,
    metavar='DIR',
    help='tokens written by --prepare, for section quality',
  )
  parser.add_argument(
    '--commit', help='commit of a checkout without its git history'
  )
  parser.add_argument(
    '--autotune-level',
    type=int,
    choices=range(5),
    help="XLA's search for fast GPU kernels, 0 to 4; by default XLA's own",
  )
  parser.add_argument(
    '--prepare',
    nargs=2,
    metavar=('CORPUS', 'DIR'),
    help='write the tokens for section quality: needs the full installation',
  )
  options = parser.parse_args(arguments)
  if options.prepare:
    return options
  if options.out is None:
    parser.error('--out DIR is required: the folder for the results')
  if not (math.isfinite(options.minutes) and options.minutes > 0):
    parser.error(f'--minutes {options.minutes:g}: must be greater than 0')
  if options.corpus and not options.corpus.is_dir():
    parser.error(f'--corpus {options.corpus}: no such folder')
  try:
    options.sections = sections.chosen(options.sections.split(','))
  except ValueError as error:
    parser.error(str(error))
  return options


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the kit, or prepares its tokens."""
  begin = time.monotonic() - process_age()
  arguments = sys.argv[1:] if arguments is None else arguments
  options = parse(arguments)
  if options.prepare:
    from fnet_t5x.benchmarks.accelerator import prepared_corpus

    prepared_corpus.prepare(*map(pathlib.Path, options.prepare))
    return
  limit = 60.0 * options.minutes
  stamp = time.strftime('%Y%m%d-%H%M%S', time.gmtime())
  results = Results(
    options.out / f'accelerator-{stamp}.json',
    {
      'command': environment.command(arguments),
      'minutes': options.minutes,
      'toy': options.toy,
      'sections': [section.name for section in options.sections],
    },
  )

  def time_is_up():
    results.note('the time is up: the case in progress is lost')
    results.end('time')

  # The limit applies to the end of the process.
  watchdog = Watchdog(begin + limit - min(1.0, limit / 10), time_is_up)
  _run(options, results, begin + limit - min(_MARGIN, limit / 5))
  watchdog.stop()
  results.end('complete')
  print(f'{results.path}: {time.monotonic() - begin:.0f} s', flush=True)


def _run(options, results, end):
  shape_annotations.provide()
  flags = [os.environ.get('XLA_FLAGS', '')]
  if options.autotune_level is not None:
    flags.append(f'--xla_gpu_autotune_level={options.autotune_level}')
  if options.toy:
    flags.append(_TOY_FLAGS)
  os.environ['XLA_FLAGS'] = ' '.join(flags).strip()
  absent_tpu.hide_library()
  described = environment.describe_host()
  if options.commit:
    described['commit'] = options.commit
  described |= environment.describe_device()
  results.set_header(**described)
  for name in ('card', 'device_kind'):
    if described.get(name):
      results.note(f'{described["backend"]}: {described[name]}')
      break
  backend = described['backend']
  setting = Setting(
    # JAX's CUDA and ROCm platforms are both 'gpu'.
    backend=backend,
    dtype='float32' if backend == 'cpu' else 'bfloat16',
    toy=options.toy,
    corpus=options.corpus,
  )
  run = []
  for section in options.sections:
    if section.needs_corpus and not options.corpus:
      results.note(f'{section.name}: skipped, since there is no --corpus')
    else:
      run.append(section)
  shares = [section.share for section in run]
  budget = TimeBudget(max(end - time.monotonic(), 0.1), shares)
  for section in run:
    bench = Bench(section.name, setting, budget.next_clock(), results)
    try:
      section.run(bench)
    except Exception as error:  # One section must not stop the others.
      bench.note(f'failed: {one_line(error)}')
