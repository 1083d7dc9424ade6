"""Runs of equal training: their options, their order, their records.

Shared by the commands that compare networks after the same number of steps, or
the same time, of training.
"""

import argparse
import json
import math
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fnet_t5x import result_table

# Shares of a run at which the loss is measured.
FRACTIONS = (0.02, 0.05, *(i / 10 for i in range(1, 11)))
_STEPS_APART = 8
# Options without effect on a run.
_PATHS = ('json', 'figure', 'text')

Record = dict[str, Any]


def add_options(
  parser: argparse.ArgumentParser, learning_rate: float = 0.01
) -> None:
  """Adds the options of training and of its text."""
  parser.add_argument(
    '--minutes', type=float, default=math.inf, help='of training, per run'
  )
  parser.add_argument(
    '--steps', type=int, default=math.inf, help='steps per run, not minutes'
  )
  parser.add_list('--seeds', int, [1, 2, 3], 'random seeds of each network')
  parser.add_argument(
    '--text',
    help='files to train on: one, a glob or a folder; by default the shipped '
    'corpus',
  )
  parser.add_argument(
    '--pieces', type=int, default=3996, help='pieces of the vocabulary'
  )
  parser.add_argument('--rows', type=int, default=16, help='rows per batch')
  parser.add_argument(
    '--train_rows', type=int, default=24000, help='rows to train on'
  )
  parser.add_argument(
    '--validation_rows', type=int, default=256, help='rows to validate on'
  )
  parser.add_argument(
    '--learning_rate',
    type=float,
    default=learning_rate,
    help='highest learning rate',
  )
  parser.add_argument('--dtype', default='float32', help='float32 or bfloat16')
  parser.add_argument(
    '--figure', type=pathlib.Path, help='PNG file for the curves'
  )


def parse(
  parser: argparse.ArgumentParser,
  arguments: Sequence[str] | None,
  counts: Sequence[str] = (),
  rates: Sequence[str] = ('learning_rate',),
) -> argparse.Namespace:
  """Parses the command line; exits on invalid input.

  Args:
    parser: has the options of `add_options`.
    arguments: the command line.
    counts: further options whose numbers must be at least 1.
    rates: options whose numbers must be greater than 0.
  """
  options = result_table.parse(parser, arguments)
  if math.isinf(options.minutes) == math.isinf(options.steps):
    parser.error('give either --minutes or --steps')
  for name in (*counts, 'pieces', 'rows', 'steps'):
    if getattr(options, name) < 1:
      parser.error(f'--{name} {getattr(options, name)}: must be at least 1')
  for name in ('train_rows', 'validation_rows'):
    if getattr(options, name) < options.rows:
      parser.error(f'--{name} must be at least --rows, {options.rows}')
  for name in ('minutes', *rates):
    value = getattr(options, name)
    if not value > 0:
      parser.error(f'--{name} {value:g}: must be greater than 0')
  if options.dtype not in ('float32', 'bfloat16'):
    parser.error(f'--dtype {options.dtype}: choose float32 or bfloat16')
  result_table.check_figure(parser, options.figure)
  options.steps_apart = _STEPS_APART
  return options


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
  """Returns the command line for JSON, without paths."""
  return {
    name: None if value == math.inf else value
    for name, value in vars(options).items()
    if name not in _PATHS
  }


def limit_of(options: argparse.Namespace) -> str:
  """Returns the end of each run, for a title."""
  if math.isinf(options.steps):
    return f'{options.minutes:g} minutes'
  return f'{options.steps} steps'


def tokenize(
  options: argparse.Namespace,
  objective: str,
  lengths: Mapping[str, int],
  bindings: Sequence[str] = (),
) -> Any:
  """Returns the text's tokens, a `PreparedCorpus`.

  Args:
    options: the command line.
    objective: name of a file in gin/objectives/.
    lengths: tokens per row, by feature.
    bindings: further gin bindings.
  """
  from fnet_t5x import command_line

  command_line.use_runtime()
  command_line.import_tensorflow()
  from fnet_t5x.benchmarks.accelerator import prepared_corpus
  from fnet_t5x.tasks import corpus

  files, validation = options.text, None
  if files is None:
    files, validation = (
      list(map(str, corpus.document_paths(split)))
      for split in ('train', 'validation')
    )
  elif '*' not in files and pathlib.Path(files).is_dir():
    files = f'{files.rstrip("/")}/*'
  return prepared_corpus.tokenize(
    files,
    validation,
    objective=objective,
    lengths=lengths,
    rows={'train': options.train_rows, 'validation': options.validation_rows},
    pieces=options.pieces,
    bindings=bindings,
  )


def on_device(arrays: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
  """Returns training and validation tokens, as int32 arrays by side.

  Args:
    arrays: as of `PreparedCorpus`.
  """
  import jax.numpy as jnp
  import numpy as np

  return tuple(
    {
      name.removeprefix(f'{split}_'): jnp.asarray(array.astype(np.int32))
      for name, array in arrays.items()
      if name.startswith(f'{split}_')
    }
    for split in ('train', 'validation')
  )


def sizes_of(options: argparse.Namespace, data: Sequence[Any]) -> Any:
  """Returns the `timed_training.Sizes` of a command line.

  Raises:
    ValueError: there are fewer rows than a batch has.
  """
  from fnet_t5x.benchmarks.accelerator import timed_training

  rows = [len(split['inputs']) for split in data]
  if min(rows) < options.rows:
    raise ValueError(
      f'the text yields {rows[0]} rows to train on and {rows[1]} to validate; '
      f'--rows {options.rows} needs at least as many'
    )
  return timed_training.Sizes(
    options.size, options.rows, rows[1], options.steps_apart
  )


def train_all(
  options: argparse.Namespace,
  prepare: Callable[[str], tuple[Any, Mapping[str, Any]]],
  data: Sequence[Any],
  labels: Mapping[str, str],
  save: Callable[[list[Record]], None] = lambda records: None,
  records: Sequence[Record] = (),
) -> list[Record]:
  """Trains every network with every seed.

  Each network trains with a seed before any trains with the next, so that runs
  stopped early compare all of them.

  Args:
    options: the command line.
    prepare: returns the warm programs of a name, and what its records have in
      common: their `learning_rate`, if it is not the command line's. Called
      when the first of its runs is due.
    data: tokens of the training and the validation split, on the device.
    labels: `model` of the records, by name, in order.
    save: called with all records so far, after each run.
    records: those of runs that need not be repeated.

  Returns:
    A record per run: `model`, `seed`, what `prepare` returned, and the `points`
    of its curve, as `timed_training.train_for` yields them, each with `flops`
    if there are `flops_per_step`; and the last one's values.
  """
  from fnet_t5x.benchmarks.accelerator import timed_training

  sizes = sizes_of(options, data)
  records = list(records)
  done = {(record['model'], record['seed']) for record in records}
  prepared = {}
  names = list(labels)
  for turn, seed in enumerate(options.seeds):
    # Another network begins with each seed, since machines slow down and
    # recover.
    start = turn % len(names)
    for name in (*names[start:], *names[:start]):
      if (labels[name], seed) in done:
        continue
      if name not in prepared:
        prepared[name] = prepare(name)
      programs, described = prepared[name]
      points = []
      for point in timed_training.train_for(
        programs,
        sizes,
        data,
        seed,
        options.minutes * 60,
        steps=options.steps,
        fractions=FRACTIONS,
        peak_rate=described.get('learning_rate', options.learning_rate),
      ):
        if 'flops_per_step' in described:
          point['flops'] = point['steps'] * described['flops_per_step']
        points.append(point)
      last = {k: v for k, v in points[-1].items() if k not in ('at', 'share')}
      records.append(
        {'model': labels[name], 'seed': seed, **described, **last}
        | {'points': points}
      )
      print(
        f'{labels[name]}, seed {seed}: {last["loss"]:.4f} after '
        f'{last["steps"]} steps, {last["seconds"]:.0f} s',
        file=sys.stderr,
        flush=True,
      )
      save(records)
  return records


def recorded(
  path: pathlib.Path | None, benchmark: str, settings: Mapping[str, Any]
) -> list[Record]:
  """Returns the records of an earlier call, to be continued.

  Args:
    path: JSON file of `result_table.write_json`, if it exists.
    benchmark: the benchmark's name in it.
    settings: what a run depends on; other settings in the file may differ.

  Raises:
    ValueError: the file is of another kind, or has other settings.
  """
  if path is None or not path.is_file() or not path.stat().st_size:
    return []
  remedy = 'name another --json file'
  try:
    content = json.loads(path.read_text())
    kind, rows = content['benchmark'], content['rows']
    found = content['settings']
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f'{path} is not a JSON file of runs; {remedy}') from error
  if kind != benchmark:
    raise ValueError(f'{path} has runs of {kind}; {remedy}')
  # As JSON has them: lists for tuples.
  wanted = json.loads(json.dumps(dict(settings)))
  differing = [
    f'{name} {found.get(name)}, not {value}'
    for name, value in wanted.items()
    if found.get(name) != value
  ]
  if differing:
    raise ValueError(
      f'{path} has runs of {", ".join(differing)}; {remedy}, or repeat its '
      'options to continue it'
    )
  return rows
