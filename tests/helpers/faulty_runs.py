"""Training processes with injected faults, as a command for `fault_test.py`.

Reads requests from standard input, one JSON object per line, and answers each
with one line. Each run is forked from this process, so that libraries are
imported, and the input pipeline is traced, only once; a run iterates over it on
threads of its own, which SeqIO's pipelines have. JAX, whose threads are this
process's, must not be initialised here.
"""

import json
import os
import signal
import sys

import faults
import jax
import small_runs

from fnet_t5x import command_line
from fnet_t5x.runtime import checkpoints, datasets, models, train

STEPS = 8
_LIMIT_SECONDS = 150


def main() -> None:
  _trace_datasets()
  for line in sys.stdin:
    process = os.fork()
    if not process:
      _run(**json.loads(line))
    _, status = os.waitpid(process, 0)
    print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)


def _trace_datasets() -> None:
  """Makes `datasets.get_dataset` return those of `small_runs` without tracing.

  Tracing takes half of a run's time, and touches no file.
  """
  make = datasets.get_dataset
  made = {}

  def get_dataset(*args):
    key = repr(args)
    if key not in made:
      made[key] = make(*args)
    return made[key]

  datasets.get_dataset = get_dataset
  converter = models.EncoderDecoderModel.FEATURE_CONVERTER_CLS
  get_dataset(small_runs.dataset_config(pack=True), 0, 1, converter)
  datasets.get_training_eval_datasets(
    small_runs.dataset_config('validation', pack=True),
    0,
    1,
    small_runs.EVAL_STEPS,
    converter,
  )


def _run(model_dir, log, number, kill, library) -> None:
  """Trains, and exits; the last line of output is the number of calls."""
  # SIGALRM ends a run that hangs.
  signal.alarm(_LIMIT_SECONDS)
  output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  os.dup2(output, 1)
  os.dup2(output, 2)
  # A run that may be killed at any moment reads compiled programs, and leaves
  # none half-written.
  jax.config.update(
    'jax_persistent_cache_min_compile_time_secs', 1e9 if number else 0
  )
  if library:
    faults.in_c(library, model_dir, number, kill)
  else:
    fault = faults.in_python(model_dir, number, kill)
  code = 1
  try:
    with command_line.one_line_errors():
      code = train.train(
        **small_runs.train_arguments(
          model_dir,
          total_steps=STEPS,
          eval_period=4,
          save=checkpoints.SaveCheckpointConfig(
            period=2, keep=2, save_dataset=True
          ),
        )
      )
  except SystemExit as stop:
    code = stop.code
  count = faults.calls_in_c(library) if library else fault.count
  print(f'calls: {count}', flush=True)
  sys.stderr.flush()
  os._exit(code)


if __name__ == '__main__':
  main()
