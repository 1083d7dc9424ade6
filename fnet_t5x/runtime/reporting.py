"""A run's numbers: `metrics.jsonl`, TensorBoard, and a line to read."""

import json
import math
import os
import time
from collections.abc import Mapping

import jax
import tensorflow as tf
from clu import metric_writers

from fnet_t5x.runtime import console, peak_flops

METRICS_FILE = 'metrics.jsonl'


class Reporter:
  """Writes each report to the model directory and to the terminal.

  Attributes:
    summary_writer: TensorBoard's, for texts and timings.
  """

  def __init__(self, model_dir: str, total_steps: int, first_step: int):
    self._path = os.path.join(model_dir, METRICS_FILE)
    self._total_steps = total_steps
    self._first_step = first_step
    self._start = time.perf_counter()
    self._writers: dict[str, metric_writers.MetricWriter] = {}
    self._model_dir = model_dir
    _forget_after(self._path, first_step)
    self._bar = console.progress(total_steps, first_step)

  @property
  def summary_writer(self) -> metric_writers.MetricWriter:
    return self._writer('train')

  def train(
    self,
    step: int,
    values: Mapping[str, float],
    flops_per_step: float | None,
  ) -> None:
    """Reports the steps since the last report.

    Args:
      step: the number of steps taken so far.
      values: T5X's metrics by name.
      flops_per_step: for the rate of arithmetic; None leaves it out.
    """
    values = dict(values)
    steps_per_second = values['timing/steps_per_second']
    rate = f'{steps_per_second:.2f} steps/s'
    if flops_per_step:
      flops = flops_per_step * steps_per_second
      values['timing/tflops_per_second'] = flops / 1e12
      rate += f', {_flops_rate(flops)}'
    self._write('train', step, values)
    console.say(
      f'step {step:>{len(str(self._total_steps))}}/{self._total_steps}  '
      f'loss {values["loss"]:.4f}  '
      f'accuracy {values["accuracy"]:.3f}  '
      f'lr {values["learning_rate/current"]:.2e}  '
      f'{values["timing/target_tokens_per_second"]:,.0f} target tokens/s, '
      f'{rate}, {_duration(self._seconds_left(step))} left'
    )
    if self._bar:
      self._bar.update(self._bar.task_ids[0], completed=step)

  def eval(self, step: int, task: str, values: Mapping[str, float]) -> None:
    """Reports an evaluation of one task, with teacher forcing."""
    self._write(f'training_eval/{task}', step, values)
    console.say(
      f'step {step:>{len(str(self._total_steps))}}/{self._total_steps}  '
      f'{task}: validation loss '
      f'{values["cross_ent_per_target_token"]:.4f} nats/target token  '
      f'accuracy {values["accuracy"]:.3f}'
    )

  def close(self) -> None:
    """Writes what is pending."""
    if self._bar:
      self._bar.stop()
    for writer in self._writers.values():
      writer.close()

  def _seconds_left(self, step: int) -> float:
    done = step - self._first_step
    elapsed = time.perf_counter() - self._start
    return (self._total_steps - step) * elapsed / max(done, 1)

  def _writer(self, collection: str) -> metric_writers.MetricWriter:
    if collection not in self._writers:
      self._writers[collection] = metric_writers.SummaryWriter(
        os.path.join(self._model_dir, collection)
      )
    return self._writers[collection]

  def _write(
    self, collection: str, step: int, values: Mapping[str, float]
  ) -> None:
    self._writer(collection).write_scalars(step, values)
    self._writer(collection).flush()
    row = {'step': step, 'collection': collection, **values}
    with tf.io.gfile.GFile(self._path, 'a') as f:
      # NaN is no JSON: a reader of this file must not trip over a bad step.
      finite = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v
        for k, v in row.items()
      }
      f.write(json.dumps(finite) + '\n')


def read_metrics(model_dir: str) -> list[dict]:
  """Returns the rows of a run's `metrics.jsonl`; none where it has none.

  A line that a killed run left unfinished is skipped.
  """
  path = os.path.join(model_dir, METRICS_FILE)
  if not tf.io.gfile.exists(path):
    return []
  with tf.io.gfile.GFile(path) as f:
    return [row for line in f if (row := _parse(line)) is not None]


def _parse(line: str) -> dict | None:
  try:
    return json.loads(line)
  except json.JSONDecodeError:
    return None


def _forget_after(path: str, step: int) -> None:
  """Drops rows of steps that a resumed run takes again."""
  rows = read_metrics(os.path.dirname(path))
  if not rows:
    return
  with tf.io.gfile.GFile(path + '.tmp', 'w') as f:
    for row in rows:
      if row['step'] <= step:
        f.write(json.dumps(row) + '\n')
  tf.io.gfile.rename(path + '.tmp', path, overwrite=True)


def _flops_rate(flops: float) -> str:
  peak = peak_flops.peak_flops(jax.devices()[0].device_kind)
  text = f'{flops / 1e12:.3g} TFLOP/s'
  if peak:
    text += f' ({flops / (peak * jax.device_count()):.0%} of peak)'
  return text


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours}h{minutes:02d}m'
  return f'{minutes}m{seconds:02d}s'
