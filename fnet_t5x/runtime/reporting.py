"""Reports of a run: `metrics.jsonl`, TensorBoard, terminal, final summary."""

import contextlib
import json
import math
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import jax
import numpy as np
import rich.progress
import tensorflow as tf
from clu import metric_writers

from fnet_t5x import command_line, data_counters, run_metrics
from fnet_t5x.costs import chips
from fnet_t5x.runtime import checkpoints, console, free_memory, wandb_writer

METRICS_FILE = run_metrics.FILE
TRAIN = run_metrics.TRAIN
# The first that a model has is printed.
_VALIDATION_LOSSES = ('cross_ent_per_target_token', 'mean_squared_error')
T = TypeVar('T')


class Reporter:
  """Writes reports to the model directory and the terminal.

  Attributes:
    losses: training loss by step, as reported before the run was resumed.
    summary_writer: TensorBoard's writer of the training collection.
  """

  def __init__(
    self,
    model_dir: str,
    total_steps: int,
    first_step: int,
    resumed: bool = False,
  ):
    """Opens `metrics.jsonl`.

    Args:
      model_dir: the folder of the run.
      total_steps: the last training step.
      first_step: the number of steps already taken.
      resumed: whether the run is resumed. If so, rows up to `first_step` are
        kept, and later ones dropped, as their steps are repeated. Otherwise
        all rows are dropped.
    """
    self._path = os.path.join(model_dir, METRICS_FILE)
    self._total_steps = total_steps
    self._first_step = first_step
    self._start: float | None = None
    self._writers: dict[str, metric_writers.MetricWriter] = {}
    self._model_dir = model_dir
    rows, skipped = _read(self._path) if resumed else ([], 0)
    if skipped:
      console.print_line(f'{self._path}: skipped invalid lines: {skipped}')
    rows = [row for row in rows if row['step'] <= first_step]
    self._reported = {(row['collection'], row['step']) for row in rows}
    trained = [row for row in rows if row['collection'] == TRAIN]
    data_counters.restore(trained[-1] if trained else {})
    self.losses = {
      row['step']: row['loss']
      for row in trained
      if isinstance(row.get('loss'), (int, float))
    }
    # Rewritten even if no row is dropped: a line truncated by a kill must not
    # run into the next one.
    with tf.io.gfile.GFile(self._path + '.tmp', 'w') as f:
      f.write(''.join(map(json_line, rows)))
    tf.io.gfile.rename(self._path + '.tmp', self._path, overwrite=True)
    self._bar: rich.progress.Progress | None = None
    self._wandb = wandb_writer.open_run(model_dir, resumed)

  @property
  def summary_writer(self) -> metric_writers.MetricWriter:
    return self._writer(TRAIN)

  def has_trained(self) -> bool:
    """Returns whether any training step has been reported."""
    return any(collection == TRAIN for collection, _ in self._reported)

  def has(self, collection: str, step: int) -> bool:
    """Returns whether a collection has a report at a step."""
    return (collection, step) in self._reported

  def watch(self, batches: Iterator[T]) -> Iterator[T]:
    """Yields the batches, and updates the progress bar before each.

    The bar starts with the first batch.
    """
    self._bar = console.progress(self._total_steps, self._first_step)
    for step, batch in enumerate(batches, self._first_step):
      self._move_bar(completed=step)
      yield batch

  @contextlib.contextmanager
  def busy(self, what: str, announced: bool = False) -> Iterator[None]:
    """Shows what the block does, if not training: on the bar or in a line.

    Args:
      what: description of the block.
      announced: whether a line has been printed already.
    """
    self._move_bar(description=what)
    try:
      with (
        contextlib.nullcontext()
        if announced or self._bar
        else console.waiting(what)
      ):
        yield
    finally:
      self._move_bar(description=console.STEP)

  def _move_bar(self, **changes) -> None:
    if self._bar:
      self._bar.update(self._bar.task_ids[0], **changes)

  def train(
    self,
    step: int,
    values: Mapping[str, float],
    flops_per_step: float | None,
  ) -> None:
    """Reports the steps since the last report.

    Args:
      step: the number of steps taken so far.
      values: T5X's metrics by name. The counters of the data pipeline are added
        to them.
      flops_per_step: FLOPs per step, for the rate of arithmetic; None omits
        it. On a CPU, whose peak is unknown, the printed line omits it, too.
    """
    values = dict(values)
    self._move_bar(completed=step)
    if self._start is None:
      # The time left is estimated without the time of compilation.
      self._start = time.perf_counter() - values['timing/seconds']
    steps_per_second = values['timing/steps_per_second']
    arithmetic = ''
    if flops_per_step:
      flops = flops_per_step * steps_per_second
      values['timing/tflops_per_second'] = flops / 1e12
      if jax.default_backend() != 'cpu':
        arithmetic = _flops_rate(flops)
    for name, count in data_counters.counts().items():
      values[f'data/{name}'] = count
    self._write(TRAIN, step, values)
    left = ''
    if not console.is_terminal():  # There the bar shows it.
      left = f'{duration(self._seconds_left(step))} left'
    fields = {
      'step': self._at(step),
      'loss': f'loss {loss_text(values["loss"])}',
      'accuracy': _accuracy(values),
      'learning rate': f'lr {values["learning_rate/current"]:.1e}',
      'tokens': f'{_rate(values["timing/target_tokens_per_second"])} tok/s',
      'arithmetic': arithmetic,
      'left': left,
    }
    spare = ('learning rate', 'accuracy', 'arithmetic')
    console.print_line(console.fitted(fields, spare))

  def eval(
    self,
    step: int,
    collection: str,
    values: Mapping[str, float],
    named: bool = True,
  ) -> None:
    """Reports an evaluation with teacher forcing.

    Args:
      step: the number of steps taken so far.
      collection: kind of evaluation and task, such as 'training_eval/my_task'.
      values: T5X's metrics by name, and `bits_per_byte` if it is known.
      named: whether the line names the task; unnecessary for a single one.
    """
    self._write(collection, step, values)
    fields = [self._at(step), *evaluation_fields(values)]
    if named:
      fields.append(os.path.basename(collection))
    console.print_line(console.wrapped(fields))

  def inference_eval(
    self, step: int, collection: str, values: Mapping[str, float]
  ) -> None:
    """Reports a task's own metrics; arguments as in `eval`."""
    self._write(collection, step, values)
    fields = [self._at(step), f'{os.path.basename(collection)}:']
    console.print_line(console.wrapped([*fields, *listed(values)]))

  def close(self) -> None:
    """Stops the bar, and flushes and closes the writers."""
    if self._bar:
      self._bar.stop()
    for writer in self._writers.values():
      writer.close()
    if self._wandb:
      self._wandb.close()

  def _at(self, step: int) -> str:
    return f'step {step:>{len(str(self._total_steps))}}/{self._total_steps}'

  def _seconds_left(self, step: int) -> float:
    elapsed = time.perf_counter() - self._start
    return (self._total_steps - step) * elapsed / (step - self._first_step)

  def _writer(self, collection: str) -> metric_writers.MetricWriter:
    if collection not in self._writers:
      self._writers[collection] = metric_writers.SummaryWriter(
        os.path.join(self._model_dir, collection)
      )
    return self._writers[collection]

  def _write(
    self, collection: str, step: int, values: Mapping[str, float]
  ) -> None:
    # As NumPy arrays: TensorFlow caches a tensor for every Python number, and
    # never frees it.
    self._writer(collection).write_scalars(
      np.asarray(step), {name: np.asarray(x) for name, x in values.items()}
    )
    self._writer(collection).flush()
    with tf.io.gfile.GFile(self._path, 'a') as f:
      f.write(json_line({'step': step, 'collection': collection, **values}))
    if self._wandb:
      self._wandb.write(collection, step, values)
    self._reported.add((collection, step))


def evaluation_fields(values: Mapping[str, float]) -> list[str]:
  """Returns the printed fields of an evaluation with teacher forcing.

  Args:
    values: T5X's metrics by name, and `bits_per_byte` if it is known. The loss
      is in nats per target token, or the squared error of a regression.
  """
  loss = next(values[name] for name in _VALIDATION_LOSSES if name in values)
  fields = [f'validation loss {loss_text(loss)}', _accuracy(values)]
  if 'pair_accuracy' in values:
    fields.append(f'pairs: loss {loss_text(values["pair_loss"])}')
    fields.append(f'acc {values["pair_accuracy"]:.3f}')
  fields = [field for field in fields if field]
  if 'bits_per_byte' in values:
    fields.append(f'{values["bits_per_byte"]:.3f} bits/byte')
  return fields


def _accuracy(values: Mapping[str, float]) -> str:
  # A regression has none.
  return f'acc {values["accuracy"]:.3f}' if 'accuracy' in values else ''


def listed(values: Mapping[str, float]) -> list[str]:
  """Returns the printed fields of metrics by name."""
  return [f'{name} {value:.4g}' for name, value in values.items()]


def loss_text(loss: float) -> str:
  """Returns a loss as text, with few columns even if it is large."""
  return f'{loss:.4f}' if abs(loss) < 1000 else f'{loss:.4g}'


def duration(seconds: float) -> str:
  """Returns a duration as text, such as 3m05s or 2h00m."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours}h{minutes:02d}m'
  return f'{minutes}m{seconds:02d}s'


def json_line(row: Mapping[str, object]) -> str:
  """Returns a row of numbers as a line of JSON.

  NaN and infinity, which JSON lacks, become null.
  """
  finite = {
    name: None
    if isinstance(value, float) and not math.isfinite(value)
    else value
    for name, value in row.items()
  }
  return json.dumps(finite) + '\n'


def read_metrics(model_dir: str) -> list[dict]:
  """Returns the rows of a run's `metrics.jsonl`; empty if there is no file.

  Invalid lines are skipped, such as one truncated when a run was killed.
  """
  return _read(os.path.join(model_dir, METRICS_FILE)).rows


def _read(path: str) -> run_metrics.Rows:
  if not tf.io.gfile.exists(path):
    return run_metrics.Rows([], 0)
  with tf.io.gfile.GFile(path, 'rb') as f:
    return run_metrics.parse(f)


def check_writable(folder: str, name: str) -> None:
  """Creates a folder, and checks that it is writable.

  Args:
    folder: the folder's path.
    name: its gin macro, for the message.

  Raises:
    OSError: the folder is not writable.
  """
  try:
    tf.io.gfile.makedirs(folder)
    probe = os.path.join(folder, f'.writable-{os.getpid()}')
    with tf.io.gfile.GFile(probe, 'w') as f:
      f.write('')
    tf.io.gfile.remove(probe)
  except tf.errors.OpError as error:
    raise OSError(
      f'{name} {folder} cannot be written ({error.message}); choose a folder '
      'that you can write to'
    ) from error


def _flops_rate(flops: float) -> str:
  peak = chips.peak_flops(jax.devices()[0].device_kind)
  if peak:
    return f'{flops / (peak * jax.device_count()):.0%} of peak'
  return f'{flops / 1e12:.3g} TFLOP/s'


def _rate(per_second: float) -> str:
  if per_second < 1e4:
    return f'{per_second:,.0f}'
  if per_second < 1e6:
    return f'{per_second / 1e3:.1f}k'
  return f'{per_second / 1e6:.1f}M'


def results(
  model_dir: str, steps: int, seconds: float, saved_step: int | None
) -> list[str]:
  """Returns the time, final losses and last checkpoint of a run, as lines.

  Args:
    model_dir: the folder with the run's metrics.
    steps: steps taken by this process.
    seconds: duration of this process.
    saved_step: step of the last checkpoint; None if there is none.
  """
  taken = f'trained {steps:,} steps in {duration(seconds)}'
  if jax.default_backend() == 'cpu':
    # The peak is of host memory, which is not what an accelerator runs out of.
    peak = free_memory.size_text(free_memory.peak_bytes())
    taken += f'; peak memory {peak}'
  lines = [taken, *_losses(read_metrics(model_dir))]
  if saved_step is not None:
    name = f'{checkpoints.PREFIX}_{saved_step}'
    lines += ['last checkpoint:', f'  {os.path.join(model_dir, name)}']
  return lines


def commands(model_dir: str, prompt: str | None = '...') -> list[str]:
  """Returns commands that use the model of a run, ready to paste.

  Args:
    model_dir: the run's folder.
    prompt: text to continue; it must not contain quotes. None for a model that
      takes none.
  """
  folder = shlex.quote(model_dir)
  module = f'  {interpreter()} -m fnet_t5x'
  generate = f'{module}.generate --model_dir={folder} --prompt="{prompt}"'
  evaluate = f'{module}.eval --model_dir={folder}'
  return [evaluate] if prompt is None else [generate, evaluate]


def commands_are_wanted() -> bool:
  """Returns whether a run prints the commands."""
  return os.environ.get(command_line.COMMANDS_VARIABLE) != '0'


def interpreter() -> str:
  """Returns the command of this Python interpreter, quoted for a shell."""
  found = shutil.which('python')
  # Folders: in all virtual environments, the files are links to the same one.
  if found and _folder(found) == _folder(sys.executable):
    return 'python'
  path = sys.executable
  below = os.path.relpath(path)
  return shlex.quote(path if below.startswith(os.pardir) else below)


def _folder(path: str) -> str:
  return os.path.realpath(os.path.dirname(path))


def _losses(rows: Iterable[Mapping]) -> list[str]:
  """Returns lines with the last loss of training and of each evaluation."""
  last = {row['collection']: row for row in rows}
  lines = []
  train_loss = last.get(TRAIN, {}).get('loss')
  if isinstance(train_loss, (int, float)):
    lines.append(f'  train loss {loss_text(train_loss)}')
  evaluations = {
    os.path.basename(collection): row
    for collection, row in last.items()
    if collection.startswith('training_eval/') and _is_readable(row)
  }
  for task, row in evaluations.items():
    first, *rest = evaluation_fields(row)
    if len(evaluations) > 1:
      rest.append(task)
    lines.append(console.wrapped([f'  {first}', *rest]))
  return lines


def _is_readable(row: Mapping) -> bool:
  """Returns whether a row has the shown metrics; foreign rows may not."""
  losses = [row[name] for name in _VALIDATION_LOSSES if name in row]
  shown = losses[:1] or [None]
  others = ('accuracy', 'bits_per_byte', 'pair_loss', 'pair_accuracy')
  shown += [row[name] for name in others if name in row]
  are_numbers = all(isinstance(value, (int, float)) for value in shown)
  # NaN is written as null.
  return are_numbers and None not in row.values()
