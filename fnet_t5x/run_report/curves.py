"""What a run's folder tells: its curves, its results, its macros.

The folder may come from anybody. What is no number is left out and counted,
and no name in it is trusted to be printable.
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

# Larger ones are a mistake, and overflow where axes are laid out.
_LARGEST = 1e30
_MAX_TASKS = 6
_MAX_NAME = 40
_MAX_VALUE = 120
_MAX_CONFIG_BYTES = 2**20
# T5X's name; a run without it has the loss by another normalization.
LOSSES = ('cross_ent_per_target_token', 'loss')
LEARNING_RATES = ('learning_rate/current', 'learning_rate')
SPEED = 'timing/target_tokens_per_second'
STEP_RATE = 'timing/steps_per_second'


@dataclasses.dataclass(frozen=True)
class Curve:
  """A metric's values, by growing step.

  Attributes:
    steps: taken until then.
    seconds: of training until then; evaluation and compiling not counted.
    values: finite numbers.
  """

  steps: Sequence[int] = ()
  seconds: Sequence[float] = ()
  values: Sequence[float] = ()

  @property
  def best(self) -> tuple[int, float] | None:
    """The step of the smallest value, and that value; None without values."""
    if not self.values:
      return None
    value = min(self.values)
    return self.steps[self.values.index(value)], value


@dataclasses.dataclass
class Run:
  """A run.

  Attributes:
    name: to tell it from the others; printable.
    step: the last one in its rows.
    seconds: of training.
    training: the loss, in nats per target token where the rows say so.
    validation: the loss by task, likewise.
    bits_per_byte: the last by task, where the rows have it.
    learning_rate: as its name.
    speed: target tokens per second, padding counted, as T5X counts them.
    steps_per_second: the median over rows; None where no row has it.
    predictions: the last metrics of tasks evaluated by predictions, and their
      step.
    macros: of `config.gin`, values as text; empty where it cannot be read.
    notes: what was left out, a sentence each.
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
  """Reads runs, each under the shortest name that tells it from the others.

  A folder that is named twice counts once.

  Raises:
    FileNotFoundError: no such folder, or no `metrics.jsonl` in it.
    ValueError: no row in it.
    OSError: it cannot be read.
  """
  chosen = list(
    {os.path.realpath(folder): folder for folder in folders}.values()
  )
  names = short_names([os.path.abspath(folder) for folder in chosen])
  return [read_run(*each) for each in zip(chosen, names, strict=True)]


def read_run(folder: str, name: str) -> Run:
  """Reads one run; raises as `read_runs`."""
  path = pathlib.Path(folder) / run_metrics.FILE
  _check_run(folder, path)
  rows, skipped = run_metrics.read(path)
  if not rows:
    beside = f' ({_lines(skipped)} skipped)' if skipped else ''
    raise ValueError(
      f'{printable(str(path))}: no row in it{beside}; the first comes after '
      'STATS_PERIOD steps'
    )
  run = run_of_rows(name, rows)
  if skipped:
    run.notes.insert(0, f'{_lines(skipped)} skipped: no row of a run')
  run.macros, note = _macros(pathlib.Path(folder) / 'config.gin')
  if note:
    run.notes.append(note)
  return run


def run_of_rows(name: str, rows: Iterable[dict[str, Any]]) -> Run:
  """Returns the run that rows tell of.

  Args:
    name: of the run.
    rows: as `run_metrics.parse` returns them. Of those of one step and
      collection the last counts; their order does not matter otherwise.
  """
  run = Run(name)
  by_collection: dict[str, dict[int, dict]] = collections.defaultdict(dict)
  repeated = 0
  for row in rows:
    of_step = by_collection[row['collection']]
    repeated += row['step'] in of_step
    of_step[row['step']] = row
  if repeated:
    run.notes.append(f'{_rows(repeated)} replaced by later ones of their steps')
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
      f'{_rows(clock.missing)} without a time: training time leaves them out'
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
      f'no {LOSSES[0]} in its rows: its loss is as LOSS_NORMALIZING_FACTOR says'
    )
  if unusable:
    run.notes.append(
      f'{unusable} value{"s" * (unusable != 1)} left out: no finite number'
    )
  return run


class _Clock:
  """Seconds of training up to a step, summed over the training rows.

  A run that was stopped and went on has the rows of both parts, and no row of
  the time between.
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
  """Returns the first of the metrics that any row has."""
  for metric in metrics:
    if any(metric in row for row in rows):
      return metric
  return metrics[0]


def _curve(
  rows: Sequence[dict], metric: str, seconds_at: Callable[[int], float]
) -> tuple[Curve, int]:
  """Returns a metric's curve, and how many rows have it as no number."""
  has = [row for row in rows if metric in row]
  good = [row for row in has if _is_number(row[metric])]
  steps = [row['step'] for row in good]
  return Curve(
    steps,
    [seconds_at(step) for step in steps],
    [float(row[metric]) for row in good],
  ), len(has) - len(good)


def _by_task(known, prefix, notes):
  """Returns (task, rows) pairs of a kind of evaluation, sorted by task."""
  tasks = sorted(key for key in known if key.startswith(prefix))
  if len(tasks) > _MAX_TASKS:
    notes.append(
      f'{len(tasks) - _MAX_TASKS} tasks of {prefix.rstrip("/")} left out: '
      f'the first {_MAX_TASKS} are shown'
    )
  return [
    (shortened(printable(key.removeprefix(prefix))), known[key])
    for key in tasks[:_MAX_TASKS]
  ]


def _is_number(value: object) -> bool:
  # A Boolean is an int to Python, and a mistake here.
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and -_LARGEST <= value <= _LARGEST
  )


def _check_run(folder: str, path: pathlib.Path) -> None:
  """Raises FileNotFoundError where there is no run to read."""
  shown = printable(folder)
  if '://' in folder:
    raise FileNotFoundError(
      f'{shown}: no folder of this machine; copy its {path.name} and '
      'config.gin here'
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
    remedy = 'name the MODEL_DIR of a run by the embedded runtime'
  raise FileNotFoundError(f'{shown}: no {path.name} in it; {remedy}')


def _macros(path: pathlib.Path) -> tuple[dict[str, str], str | None]:
  """Returns the macros of a configuration, and what is wrong with it."""
  if not path.is_file():
    return {}, f'no {path.name}: its macros are not known'
  try:
    with path.open('rb') as f:
      text = f.read(_MAX_CONFIG_BYTES).decode()
    values = gin_check.macros_of(text)
  # Memory is what Python's parser lacks for brackets within brackets.
  except (OSError, ValueError, MemoryError):
    return {}, f'{path.name} is no gin: its macros are not known'
  return {
    printable(name): shortened(printable(repr(value)), _MAX_VALUE)
    for name, value in values.items()
  }, None


def short_names(paths: Sequence[str]) -> list[str]:
  """Returns names of paths: their last folders, as many as tell them apart.

  Folders at the end that all paths have are left out: of `a/model` and
  `b/model` the names are `a` and `b`. Long names are cut in their middle, and
  numbered where that makes them equal.
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
  """Returns a text of one line that any font, file and terminal takes."""
  return ''.join(c if c.isprintable() else '?' for c in text)


def shortened(text: str, length: int = _MAX_NAME) -> str:
  """Returns a text of at most `length` characters, cut in the middle."""
  if len(text) <= length:
    return text
  end = (length - 1) // 2
  return f'{text[: length - 1 - end]}…{text[-end:]}'


def median(values: Sequence[float]) -> float | None:
  """Returns the median; None of no values."""
  return statistics.median(values) if values else None


def time_unit(seconds: float) -> tuple[float, str]:
  """Returns the seconds and the name of the unit to show a duration in."""
  if seconds < 120:
    return 1.0, 's'
  return (60.0, 'min') if seconds < 7200 else (3600.0, 'h')


def _rows(count: int) -> str:
  return f'{count} row{"s" * (count != 1)}'


def _lines(count: int) -> str:
  return f'{count} line{"s" * (count != 1)}'


def is_log(values: Iterable[float]) -> bool:
  """Whether values that are all above 0 spread too far for a linear axis."""
  values = list(values)
  return bool(values) and min(values) > 0 and max(values) > 50 * min(values)
