"""Curves, results and macros of a run, read from its folder.

The folder is not trusted: values that are not numbers are skipped and counted,
and names may be unprintable.
"""

import bisect
import collections
import dataclasses
import os
import pathlib
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fnet_t5x import gin_check, run_metrics

# Larger values are a mistake, and overflow in matplotlib's axes.
_MAX_NUMBER = 1e30
_MAX_TASKS = 6
_MAX_NAME = 40
_MAX_VALUE = 120
_MAX_CONFIG_BYTES = 2**20
# T5X's name first; runs without it may normalize the loss differently.
LOSSES = ('cross_ent_per_target_token', 'loss')
LEARNING_RATES = ('learning_rate/current', 'learning_rate')
SPEED = 'timing/target_tokens_per_second'
STEP_RATE = 'timing/steps_per_second'


@dataclasses.dataclass(frozen=True)
class Curve:
  """Values of a metric, by increasing step.

  Attributes:
    steps: number of steps taken so far.
    seconds: training time so far, without evaluation and compilation.
    values: finite values.
  """

  steps: Sequence[int] = ()
  seconds: Sequence[float] = ()
  values: Sequence[float] = ()

  @property
  def best(self) -> tuple[int, float] | None:
    """Step and value of the minimum; None if there are no values."""
    if not self.values:
      return None
    value = min(self.values)
    return self.steps[self.values.index(value)], value


@dataclasses.dataclass
class Run:
  """A training run.

  Attributes:
    name: printable name, distinct from those of the other runs.
    step: last step in its rows.
    seconds: training time.
    training: training loss, in nats per target token if the rows have that.
    validation: validation loss by task, likewise.
    bits_per_byte: last value by task, if the rows have it.
    learning_rate: learning rate.
    speed: target tokens per second, including padding, as T5X counts them.
    steps_per_second: median over the rows; None if no row has it.
    predictions: by task evaluated on predictions, the last step and metrics.
    macros: values of the macros in `config.gin`, as text; empty if it cannot be
      read.
    notes: one sentence for each kind of data that was skipped.
  """

  name: str
  step: int = 0
  seconds: float = 0.0
  training: Curve = Curve()
  validation: dict[str, Curve] = dataclasses.field(default_factory=dict)
  bits_per_byte: dict[str, float] = dataclasses.field(default_factory=dict)
  learning_rate: Curve = Curve()
  speed: Curve = Curve()
  steps_per_second: float | None = None
  predictions: dict[str, tuple[int, dict[str, float]]] = dataclasses.field(
    default_factory=dict
  )
  macros: dict[str, str] = dataclasses.field(default_factory=dict)
  notes: list[str] = dataclasses.field(default_factory=list)


def read_runs(folders: Sequence[str]) -> list[Run]:
  """Reads runs, and gives each the shortest name that is unique.

  A folder that is named twice counts once.

  Raises:
    FileNotFoundError: no such folder, or no `metrics.jsonl` in it.
    ValueError: `metrics.jsonl` has no rows.
    OSError: `metrics.jsonl` cannot be read.
  """
  chosen = list(
    {os.path.realpath(folder): folder for folder in folders}.values()
  )
  names = short_names([os.path.abspath(folder) for folder in chosen])
  return [read_run(*each) for each in zip(chosen, names, strict=True)]


def read_run(folder: str, name: str) -> Run:
  """Reads one run; raises the same errors as `read_runs`."""
  path = pathlib.Path(folder) / run_metrics.FILE
  _check_run(folder, path)
  rows, skipped = run_metrics.read(path)
  if not rows:
    also = f' ({_lines(skipped)} skipped)' if skipped else ''
    raise ValueError(
      f'{printable(str(path))}: no rows{also}; the first is written after '
      'STATS_PERIOD steps'
    )
  run = run_of_rows(name, rows)
  if skipped:
    run.notes.insert(0, f'{_lines(skipped)} skipped: not a row of metrics')
  run.macros, note = _macros(pathlib.Path(folder) / 'config.gin')
  if note:
    run.notes.append(note)
  return run


def run_of_rows(name: str, rows: Iterable[dict[str, Any]]) -> Run:
  """Makes a run from rows of metrics.

  Args:
    name: name of the run.
    rows: as returned by `run_metrics.parse`. Of several rows for the same step
      and collection, the last counts; otherwise their order does not matter.
  """
  run = Run(name)
  by_collection: dict[str, dict[int, dict]] = collections.defaultdict(dict)
  repeated = 0
  for row in rows:
    of_step = by_collection[row['collection']]
    repeated += row['step'] in of_step
    of_step[row['step']] = row
  if repeated:
    run.notes.append(
      f'{_rows(repeated)} replaced by later rows of the same step'
    )
  known = {
    key: [of_step[step] for step in sorted(of_step)]
    for key, of_step in by_collection.items()
  }
  run.step = max(rows[-1]['step'] for rows in known.values())
  training = known.get(run_metrics.TRAIN, [])
  clock = _Clock(training)
  run.seconds = clock.at(run.step)
  if clock.missing:
    run.notes.append(
      f'{_rows(clock.missing)} without a duration: not in the training time'
    )
  unusable = 0

  def curve(rows, *metrics):
    found, bad = _curve(rows, _first_known(rows, metrics), clock.at)
    nonlocal unusable
    unusable += bad
    return found

  run.training = curve(training, *LOSSES)
  run.learning_rate = curve(training, *LEARNING_RATES)
  run.speed = curve(training, SPEED)
  run.steps_per_second = median(curve(training, STEP_RATE).values)
  evaluations = []
  for task, rows in _by_task(known, run_metrics.TRAINING_EVAL, run.notes):
    evaluations.append(rows)
    run.validation[task] = curve(rows, *LOSSES)
    bits = curve(rows, 'bits_per_byte').values
    if bits:
      run.bits_per_byte[task] = bits[-1]
  for task, rows in _by_task(known, run_metrics.INFERENCE_EVAL, run.notes):
    values = {printable(k): v for k, v in rows[-1].items() if _is_number(v)}
    step = values.pop('step')
    run.predictions[task] = (step, values)
  losses = [*training, *(row for rows in evaluations for row in rows)]
  if losses and not any(LOSSES[0] in row for row in losses):
    run.notes.append(
      f'no {LOSSES[0]} in its rows: the loss shown is normalized by '
      'LOSS_NORMALIZING_FACTOR'
    )
  if unusable:
    run.notes.append(
      f'{unusable} value{"s" * (unusable != 1)} skipped: not a finite number'
    )
  return run


def curve_of(
  rows: Sequence[dict[str, Any]], collection: str, metric: str
) -> Curve:
  """Returns a metric's curve from the rows of one collection."""
  by_step = {
    row['step']: row for row in rows if row['collection'] == collection
  }
  training = {
    row['step']: row for row in rows if row['collection'] == run_metrics.TRAIN
  }
  clock = _Clock([training[step] for step in sorted(training)])
  found, _ = _curve(
    [by_step[step] for step in sorted(by_step)], metric, clock.at
  )
  return found


class _Clock:
  """Training time up to a step, summed over the training rows.

  A resumed run has the rows of both parts, and none for the time in between.
  """

  def __init__(self, rows: Sequence[dict]):
    self.missing = 0
    self._steps: list[int] = []
    self._seconds: list[float] = []
    total = 0.0
    for row in rows:
      seconds = row.get('timing/seconds')
      if _is_number(seconds) and seconds >= 0:
        total += seconds
      else:
        self.missing += 1
      self._steps.append(row['step'])
      self._seconds.append(total)

  def at(self, step: int) -> float:
    place = bisect.bisect_right(self._steps, step)
    return self._seconds[place - 1] if place else 0.0


def _first_known(rows, metrics):
  """Returns the first metric that occurs in the rows."""
  for metric in metrics:
    if any(metric in row for row in rows):
      return metric
  return metrics[0]


def _curve(
  rows: Sequence[dict], metric: str, seconds_at: Callable[[int], float]
) -> tuple[Curve, int]:
  """Returns a metric's curve, and the number of rows with invalid values."""
  has = [row for row in rows if metric in row]
  good = [row for row in has if _is_number(row[metric])]
  steps = [row['step'] for row in good]
  return Curve(
    steps,
    [seconds_at(step) for step in steps],
    [float(row[metric]) for row in good],
  ), len(has) - len(good)


def _by_task(known, prefix, notes):
  """Returns (task, rows) pairs for a kind of evaluation, sorted by task."""
  tasks = sorted(key for key in known if key.startswith(prefix))
  if len(tasks) > _MAX_TASKS:
    notes.append(
      f'{len(tasks) - _MAX_TASKS} tasks of {prefix.rstrip("/")} not shown, '
      f'only the first {_MAX_TASKS}'
    )
  return [
    (shortened(printable(key.removeprefix(prefix))), known[key])
    for key in tasks[:_MAX_TASKS]
  ]


def _is_number(value: object) -> bool:
  # A Boolean is an int in Python, but a mistake here.
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and -_MAX_NUMBER <= value <= _MAX_NUMBER
  )


def _check_run(folder: str, path: pathlib.Path) -> None:
  """Raises FileNotFoundError if there is no run in the folder."""
  shown = printable(folder)
  if '://' in folder:
    raise FileNotFoundError(
      f'{shown}: not a local folder; copy its {path.name} and config.gin to '
      'this machine'
    )
  if not os.path.isdir(folder):
    raise FileNotFoundError(f'{shown}: no such folder; name a MODEL_DIR')
  if path.is_file():
    return
  inside = sorted(pathlib.Path(folder).glob(f'*/{path.name}'))
  if inside:
    named = ' '.join(printable(str(each.parent)) for each in inside[:3])
    remedy = f'did you mean {named}{" ..." * (len(inside) > 3)}?'
  else:
    remedy = 'name the MODEL_DIR of a run of the embedded runtime'
  raise FileNotFoundError(f'{shown}: no {path.name} in it; {remedy}')


def _macros(path: pathlib.Path) -> tuple[dict[str, str], str | None]:
  """Returns the macros of a configuration, and a note if it is unreadable."""
  if not path.is_file():
    return {}, f'no {path.name}: its macros are unknown'
  try:
    with path.open('rb') as f:
      text = f.read(_MAX_CONFIG_BYTES).decode()
    values = gin_check.macros_of(text)
  except (OSError, ValueError):
    return {}, f'{path.name} is not valid gin: its macros are unknown'
  return {
    printable(name): shortened(printable(repr(value)), _MAX_VALUE)
    for name, value in values.items()
  }, None


def short_names(paths: Sequence[str]) -> list[str]:
  """Returns unique names of paths: as many trailing folders as needed.

  A common suffix is dropped: `a/model` and `b/model` become `a` and `b`. Long
  names are shortened in the middle, and numbered if that makes them equal.
  """
  parts = [list(pathlib.PurePath(path).parts) for path in paths]
  while len(parts) > 1 and all(
    len(each) > 2 and each[-1] == parts[0][-1] for each in parts
  ):
    parts = [each[:-1] for each in parts]
  names = []
  for each in parts:
    others = [other for other in parts if other is not each]
    count = next(
      (n for n in range(1, len(each)) if not _any_ends(others, each[-n:])),
      len(each),
    )
    name = str(pathlib.PurePath(*each[-count:]))
    names.append(shortened(printable(name)))
  seen: collections.Counter[str] = collections.Counter(names)
  numbers: collections.Counter[str] = collections.Counter()
  for place, name in enumerate(names):
    if seen[name] > 1:
      numbers[name] += 1
      names[place] = f'{name} #{numbers[name]}'
  return names


def _any_ends(paths, end):
  return any(path[-len(end) :] == end for path in paths)


def printable(text: str) -> str:
  """Returns a text as one printable line, for any file or terminal."""
  return ''.join(c if c.isprintable() else '?' for c in text)


def shortened(text: str, length: int = _MAX_NAME) -> str:
  """Shortens a text in the middle to at most `length` characters."""
  if len(text) <= length:
    return text
  end = (length - 1) // 2
  return f'{text[: length - 1 - end]}…{text[-end:]}'


def median(values: Sequence[float]) -> float | None:
  """Returns the median; None if there are no values."""
  return statistics.median(values) if values else None


def time_unit(seconds: float) -> tuple[float, str]:
  """Returns the unit to display a duration in: its seconds and its symbol."""
  if seconds < 120:
    return 1.0, 's'
  return (60.0, 'min') if seconds < 7200 else (3600.0, 'h')


def _rows(count: int) -> str:
  return f'{count} row{"s" * (count != 1)}'


def _lines(count: int) -> str:
  return f'{count} line{"s" * (count != 1)}'


def is_log(values: Iterable[float]) -> bool:
  """Returns whether values need a logarithmic axis: all > 0, ratio above 50."""
  values = list(values)
  return bool(values) and min(values) > 0 and max(values) > 50 * min(values)
