"""GLUE by finetuning an encoder: `python -m fnet_t5x.benchmarks.glue`.

  python -m fnet_t5x.benchmarks.glue --gin_file=gin/models/fnet_base.gin \\
    --checkpoint=runs/fnet/checkpoint_1000000 --tfds_data_dir=/data/tfds \\
    --output=runs/glue --tasks cola rte --learning_rates 1e-5 3e-5 --seeds 0 1 2

Finetunes on every task with every learning rate and seed, each in a process of
`fnet_t5x.train` with gin/experiments/glue.gin, and prints the median over seeds
at the best learning rate. The same command continues where it was stopped:
finished runs are not repeated. A run that fails, such as by a loss that is not
finite, is listed and left out.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fnet_t5x import (
  absent_tpu,
  argument_parser,
  result_table,
  train_process,
)

# By task, its metrics, in percent: the first one chooses the learning rate.
# Those of the FNet paper's table (2105.03824) are marked in `PAPER`.
METRICS: Mapping[str, tuple[str, ...]] = {
  'cola': ('matthews_corrcoef', 'accuracy'),
  'sst2': ('accuracy',),
  'mrpc': ('f1_accuracy_mean', 'f1', 'accuracy'),
  'qqp': ('f1_accuracy_mean', 'f1', 'accuracy'),
  'stsb': ('spearman_corrcoef', 'pearson_corrcoef'),
  'mnli': ('accuracy', 'mismatched_accuracy'),
  'qnli': ('accuracy',),
  'rte': ('accuracy',),
  'wnli': ('accuracy',),
}
# Means of these are the paper's average; its metric of CoLA is the accuracy.
PAPER: Mapping[str, tuple[str, ...]] = {
  **{task: names[:1] for task, names in METRICS.items()},
  'cola': ('accuracy',),
  'mnli': ('accuracy', 'mismatched_accuracy'),
}
# Without WNLI, as in the paper: its validation set is adversarial.
TASKS = tuple(task for task in METRICS if task != 'wnli')
LEARNING_RATES = (1e-5, 2e-5, 3e-5, 5e-5)
SEEDS = (0, 1, 2)


class Run(NamedTuple):
  """A run of the sweep."""

  task: str
  learning_rate: float
  seed: int

  @property
  def folder(self) -> str:
    """Its model directory, within that of the sweep."""
    return f'{self.task}/lr_{self.learning_rate:g}_seed_{self.seed}'


def runs(
  tasks: Iterable[str], learning_rates: Sequence[float], seeds: Sequence[int]
) -> list[Run]:
  """Returns the runs of a sweep, in order; a task's are together."""
  return [
    Run(task, rate, seed)
    for task in tasks
    for rate in learning_rates
    for seed in seeds
  ]


def bindings_of(run: Run, options: argparse.Namespace) -> list[str]:
  """Returns the gin bindings of a run."""
  values = {
    'GLUE_TASK': run.task,
    'LEARNING_RATE': run.learning_rate,
    'RANDOM_SEED': run.seed,
    'INITIAL_CHECKPOINT_PATH': options.checkpoint,
    # One, to resume from.
    'KEEP_CHECKPOINTS': 1,
  }
  return [
    *(f'{name} = {value!r}' for name, value in values.items()),
    *(' = '.join(each.split('=', 1)) for each in options.gin),
  ]


def read_metrics(model_dir: pathlib.Path, task: str) -> dict[str, float]:
  """Returns the metrics of the last evaluation, which either engine writes.

  Args:
    model_dir: model directory of a finished run.
    task: a key of `METRICS`.

  Returns:
    Values by name, those of MNLI's mismatched split as `mismatched_...`.

  Raises:
    ValueError: there is no evaluation.
  """
  parts = {'': task}
  if task == 'mnli':
    parts['mismatched_'] = 'mnli_mismatched'
  found = {}
  for prefix, part in parts.items():
    name = f'fnet_glue_{part}_classification-metrics.jsonl'
    path = model_dir / 'inference_eval' / name
    lines = path.read_text().splitlines() if path.exists() else []
    if not lines:
      raise ValueError(f'{path} has no metrics: the run did not evaluate')
    row = json.loads(lines[-1])
    found |= {
      f'{prefix}{name}': float(value)
      for name, value in row.items()
      if name != 'step'
    }
  return {name: value for name, value in found.items() if name in METRICS[task]}


def finish(run: Run, options: argparse.Namespace) -> dict[str, float]:
  """Returns the metrics of a run; trains it unless it is finished.

  A finished run has no checkpoints unless `options.keep_checkpoints`.

  Args:
    run: the run.
    options: the command line.

  Raises:
    TrainingError: training failed.
    ValueError: the folder has a run with other settings, or no evaluation.
  """
  folder = pathlib.Path(options.output, run.folder).absolute()
  data = options.tfds_data_dir
  train_process.train_once(
    folder,
    [*options.gin_file, 'gin/experiments/glue.gin'],
    bindings_of(run, options),
    [f'--tfds_data_dir={data}'] if data else [],
  )
  if not options.keep_checkpoints:
    for checkpoint in folder.glob('checkpoint_*'):
      shutil.rmtree(checkpoint)
  return read_metrics(folder, run.task)


def summary(
  metrics: Mapping[Run, Mapping[str, float]],
) -> list[dict[str, Any]]:
  """Returns the medians over seeds, at each task's best learning rate.

  Args:
    metrics: values by run and name, in percent. Failed runs are absent.

  Returns:
    A record per task and metric, with `learning_rate`, the `median`, `minimum`
    and `maximum` over seeds, and `in_paper`.
  """
  rows = []
  for task in dict.fromkeys(run.task for run in metrics):
    by_rate: dict[float, list[Mapping[str, float]]] = {}
    for run, values in metrics.items():
      if run.task == task:
        by_rate.setdefault(run.learning_rate, []).append(values)
    first = METRICS[task][0]
    # A rate with failed runs loses to one without. Of equally good ones, the
    # lowest.
    best = max(
      sorted(by_rate),
      key=lambda rate: (len(by_rate[rate]), _median(by_rate[rate], first)),
    )
    for name in METRICS[task]:
      found = [values[name] for values in by_rate[best]]
      rows.append(
        {
          'task': task,
          'metric': name,
          'learning_rate': best,
          'median': statistics.median(found),
          'minimum': min(found),
          'maximum': max(found),
          'seeds': len(found),
          'in_paper': name in PAPER[task],
        }
      )
  return rows


def _median(values: Iterable[Mapping[str, float]], name: str) -> float:
  return statistics.median(each[name] for each in values)


def average(rows: Iterable[Mapping[str, Any]]) -> float:
  """Returns the mean of the paper's metrics (MNLI counts twice)."""
  return statistics.fmean(row['median'] for row in rows if row['in_paper'])


def print_summary(rows: Sequence[Mapping[str, Any]], checkpoint: str) -> None:
  """Prints what `summary` returned as a table."""
  tasks = dict.fromkeys(row['task'] for row in rows)
  result_table.print_table(
    f'GLUE, validation, {checkpoint}: median over seeds at the best learning '
    'rate, in percent; metrics with * are those of the FNet paper',
    ['task', 'metric', 'median', 'min', 'max', 'seeds', 'learning rate'],
    [
      [
        [
          row['task'],
          f'{row["metric"]}{"*" if row["in_paper"] else ""}',
          *(f'{row[key]:.1f}' for key in ('median', 'minimum', 'maximum')),
          str(row['seeds']),
          f'{row["learning_rate"]:g}',
        ]
        for row in rows
        if row['task'] == task
      ]
      for task in tasks
    ],
  )
  print(f'mean of the metrics with *: {average(rows):.1f}')


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
  """Parses the command line; exits on invalid input."""
  parser = argument_parser.ArgumentParser('fnet_t5x.benchmarks.glue', __doc__)
  parser.add_argument(
    '--checkpoint', help='.../checkpoint_<step> to start from'
  )
  parser.add_argument(
    '--gin_file',
    action='append',
    default=[],
    help='its model, then its vocabulary; may be repeated',
  )
  parser.add_argument(
    '--gin',
    action='append',
    default=[],
    metavar='NAME=VALUE',
    help='further macros of all runs; may be repeated',
  )
  parser.add_argument('--output', help='folder of the runs and their results')
  parser.add_argument(
    '--tfds_data_dir', help='folder of the data that TFDS prepared'
  )
  parser.add_argument(
    '--tasks', nargs='+', default=TASKS, choices=METRICS, help='tasks'
  )
  parser.add_argument(
    '--learning_rates',
    nargs='+',
    type=float,
    default=LEARNING_RATES,
    help='learning rates to choose from',
  )
  parser.add_argument(
    '--seeds', nargs='+', type=int, default=SEEDS, help='seeds of each'
  )
  parser.add_argument(
    '--keep_checkpoints',
    action='store_true',
    help='keep the last checkpoint of finished runs',
  )
  options = result_table.parse(parser, arguments)
  # Not argparse's `required`, which hides a misspelled flag.
  for name in ('checkpoint', 'gin_file', 'output'):
    if not getattr(options, name):
      parser.error(f'--{name} is not given; --help has an example')
  if min(options.learning_rates) <= 0:
    parser.error('--learning_rates: above 0')
  for name in ('tasks', 'learning_rates', 'seeds'):
    values = getattr(options, name)
    if len(set(values)) < len(values):
      parser.error(f'--{name} has a value twice')
  return options


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the sweep, prints its table, and writes the JSON file."""
  options = parse(arguments)
  metrics: dict[Run, dict[str, float]] = {}
  failed = []
  for run in runs(options.tasks, options.learning_rates, options.seeds):
    try:
      metrics[run] = finish(run, options)
    except ValueError as error:
      print(f'error: {run.folder}: {error}', file=sys.stderr, flush=True)
      failed.append(run)
      # Not a single one: the settings are wrong, not a learning rate.
      if not metrics:
        sys.exit(1)
      continue
    values = ', '.join(f'{k} {v:.1f}' for k, v in metrics[run].items())
    print(f'{run.folder}: {values}', flush=True)
  rows = summary(metrics)
  print_summary(rows, options.checkpoint)
  if failed:
    print(f'left out, failed: {", ".join(run.folder for run in failed)}')
  if options.json:
    settings = {
      'checkpoint': options.checkpoint,
      'gin_files': options.gin_file,
      'gin': options.gin,
      'learning_rates': list(options.learning_rates),
      'seeds': list(options.seeds),
      'runs': [
        {**run._asdict(), 'metrics': values} for run, values in metrics.items()
      ],
      'failed': [run._asdict() for run in failed],
    }
    result_table.write_json(options.json, 'glue', settings, rows)
  sys.exit(1 if failed else 0)


if __name__ == '__main__':
  absent_tpu.hide_library()
  main()
