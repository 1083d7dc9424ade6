"""Training of and generation with a small hybrid, in a few minutes.

  python -m fnet_t5x.quickstart

Runs `gin/experiments/quickstart.gin`, compares the validation loss with that of
a unigram model, and continues three held-out texts. The same command resumes a
run that was stopped.
"""

import os
import signal
import subprocess
import sys
import time

from fnet_t5x import absent_tpu, command_line, stop_signals

GIN_FILE = 'gin/experiments/quickstart.gin'
MODEL_DIR = 'runs/quickstart'
_PROMPT_WORDS = 40
_NUM_PROMPTS = 3
_EVAL_SEED = 42  # That of gin/runs/training.gin, for the same targets.


def held_out_prompts() -> list[tuple[str, str]]:
  """Returns (document id, prompt) pairs from validation documents over time."""
  from fnet_t5x.tasks import corpus

  documents = list(corpus.documents('validation'))
  chosen = documents[:: max(1, len(documents) // _NUM_PROMPTS)][-_NUM_PROMPTS:]
  prompts = []
  for name, text in chosen:
    words = text.split()
    middle = len(words) // 2
    prompts.append((name, ' '.join(words[middle : middle + _PROMPT_WORDS])))
  return prompts


def run_training() -> int:
  """Trains in a subprocess; returns its exit code.

  Ctrl-C reaches both processes, and the run handles it: it finishes the step
  and saves. SIGTERM is forwarded.
  """
  environment = {**os.environ, command_line.COMMANDS_VARIABLE: '0'}
  process = None

  def forward(signum, frame):
    del frame
    if process is not None and signum == signal.SIGTERM:
      process.send_signal(signum)

  # A handler, not SIG_IGN, which the run would inherit.
  signals = (signal.SIGINT, signal.SIGTERM)
  before = {each: signal.signal(each, forward) for each in signals}
  try:
    process = subprocess.Popen(
      [sys.executable, '-m', 'fnet_t5x.train', f'--gin_file={GIN_FILE}'],
      env=environment,
    )
    code = process.wait()
  finally:
    for signum, handler in before.items():
      signal.signal(signum, handler)
  # Negative after a signal: converted to the shell's exit code for it.
  return code if code >= 0 else 128 - code


def show(seconds: float) -> int:
  """Compares losses and continues texts; returns the exit code.

  Args:
    seconds: duration of the training.
  """
  start = time.perf_counter() - seconds
  from fnet_t5x.runtime import (
    console,
    reporting,
    text_generation,
  )
  from fnet_t5x.tasks import unigram

  losses = [
    (row['step'], row['cross_ent_per_target_token'])
    for row in reporting.read_metrics(MODEL_DIR)
    if row['collection'].startswith('training_eval/')
  ]
  with console.waiting('loading the model'):
    generator = text_generation.TextGenerator(MODEL_DIR)
  with console.waiting('fitting a unigram model for comparison'):
    unigram_loss = unigram.unigram_loss(
      generator.task_name, generator.feature_lengths, _EVAL_SEED
    )
  (first_step, first), (last_step, last) = losses[0], losses[-1]
  console.print_line('')
  console.print_line('validation loss, nats per target token')
  console.print_line(f'  hybrid, step {first_step:<5}   {first:.3f}')
  console.print_line(f'  unigram model       {unigram_loss:.3f}')
  console.print_line(f'  hybrid, step {last_step:<5}   {last:.3f}')
  for name, prompt in held_out_prompts():
    console.print_line(f'\n[{name}] {prompt} ...')
    console.print_line(f'  -> {generator.generate(prompt)}')
  took = reporting.duration(time.perf_counter() - start)
  console.print_line(f'\ntook {took} in total; try it yourself:')
  for line in reporting.commands(MODEL_DIR, 'My fellow citizens,'):
    console.print_line(line)
  if not last < unigram_loss:
    console.print_line(
      'error: the hybrid does no better than the unigram model'
    )
    return 1
  return 0


if __name__ == '__main__':
  with command_line.one_line_errors():
    command_line.read(sys.argv, __doc__)
    begun = time.perf_counter()
    if code := run_training():
      sys.exit(code)
    stop_signals.end_process()
    absent_tpu.hide_library()
    command_line.use_runtime()
    print('importing TensorFlow and JAX ...', flush=True)
    command_line.import_tensorflow()
    sys.exit(show(time.perf_counter() - begun))
