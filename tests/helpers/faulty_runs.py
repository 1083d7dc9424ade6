"""Training processes with injected faults, as a command for `fault_test.py`.

Reads requests from standard input, one JSON object per line, and answers each
with one line. Each run is forked from this process, so that large libraries are
imported only once. JAX must not be initialised here, as importing
`fnet_t5x.runtime` would.
"""

import json
import os
import signal
import sys

import faults
import flax.linen  # noqa: F401
import orbax.checkpoint  # noqa: F401
import seqio  # noqa: F401
from clu import metric_writers  # noqa: F401

from fnet_t5x import command_line

STEPS = 8
_LIMIT_SECONDS = 150


def main() -> None:
  for line in sys.stdin:
    process = os.fork()
    if not process:
      _run(**json.loads(line))
    _, status = os.waitpid(process, 0)
    print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)


def _run(model_dir, log, number, kill, library) -> None:
  """Trains, and exits; the last line of output is the number of calls."""
  # SIGALRM ends a run that hangs.
  signal.alarm(_LIMIT_SECONDS)
  output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  os.dup2(output, 1)
  os.dup2(output, 2)
  import small_runs

  from fnet_t5x.runtime import checkpoints, train

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
