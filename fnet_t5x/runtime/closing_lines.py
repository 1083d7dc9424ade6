"""What a run says at its end: what came out, and what to do with it."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping

import jax

from fnet_t5x import command_line
from fnet_t5x.runtime import checkpoints, console, free_memory, reporting


def results(
  model_dir: str, steps: int, seconds: float, saved_step: int | None
) -> list[str]:
  """Returns the time, the final losses and the checkpoint of a run.

  Args:
    model_dir: has the run's metrics.
    steps: how many this process took.
    seconds: how long it ran.
    saved_step: of the last checkpoint; None where none was saved.
  """
  taken = f'trained {steps:,} steps in {reporting.duration(seconds)}'
  if jax.default_backend() == 'cpu':
    # An accelerator's memory is its own, and another.
    peak = free_memory.size_text(free_memory.peak_bytes())
    taken += f'; peak memory {peak}'
  lines = [taken, *_losses(reporting.read_metrics(model_dir))]
  if saved_step is not None:
    name = f'{checkpoints.PREFIX}_{saved_step}'
    lines += ['last checkpoint:', f'  {os.path.join(model_dir, name)}']
  return lines


def commands(model_dir: str, prompt: str = '...') -> list[str]:
  """Returns commands to paste, which use the model of a run.

  Args:
    model_dir: the run's folder.
    prompt: a text to continue, without quotes in it.
  """
  folder = shlex.quote(model_dir)
  module = f'  {interpreter()} -m fnet_t5x'
  return [
    f'{module}.generate --model_dir={folder} --prompt="{prompt}"',
    f'{module}.eval --model_dir={folder}',
  ]


def commands_are_wanted() -> bool:
  """Returns whether a run shows the commands itself."""
  return os.environ.get(command_line.COMMANDS_VARIABLE) != '0'


def interpreter() -> str:
  """Returns this Python as the user would type it, quoted for a shell."""
  found = shutil.which('python')
  # Not the files: those of all virtual environments are one.
  if found and _folder(found) == _folder(sys.executable):
    return 'python'
  path = sys.executable
  below = os.path.relpath(path)
  return shlex.quote(path if below.startswith(os.pardir) else below)


def _folder(path: str) -> str:
  return os.path.realpath(os.path.dirname(path))


def _losses(rows: Iterable[Mapping]) -> list[str]:
  """The last loss of training, and of each evaluation."""
  last = {row['collection']: row for row in rows}
  lines = []
  train_loss = last.get(reporting.TRAIN, {}).get('loss')
  if isinstance(train_loss, (int, float)):
    lines.append(f'  train loss {reporting.loss_text(train_loss)}')
  evaluations = {
    os.path.basename(collection): row
    for collection, row in last.items()
    if collection.startswith('training_eval/') and _is_readable(row)
  }
  for task, row in evaluations.items():
    first, *rest = reporting.evaluation_fields(row)
    if len(evaluations) > 1:
      rest.append(task)
    lines.append(console.wrapped([f'  {first}', *rest]))
  return lines


def _is_readable(row: Mapping) -> bool:
  """Whether a row has the numbers that are shown; rows of others may not."""
  shown = [row.get(n) for n in ('cross_ent_per_target_token', 'accuracy')]
  if 'bits_per_byte' in row:
    shown.append(row['bits_per_byte'])
  are_numbers = all(isinstance(value, (int, float)) for value in shown)
  # NaN is null there.
  return are_numbers and None not in row.values()
