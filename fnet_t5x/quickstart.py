"""A small hybrid, trained and made to continue texts, in some minutes.

  python -m fnet_t5x.quickstart

Runs `gin/experiments/quickstart.gin`, sets its validation loss beside that of
a model that knows word frequencies only, and continues three texts that it
has not seen. Stopped and started again, it goes on where it was.
"""

import subprocess
import sys
import time

from fnet_t5x import command_line

GIN_FILE = 'gin/experiments/quickstart.gin'
MODEL_DIR = 'runs/quickstart'
_PROMPT_WORDS = 40
_NUM_PROMPTS = 3
_EVAL_SEED = 42  # gin/runs/training.gin's, for the same validation targets


def held_out_prompts() -> list[tuple[str, str]]:
  """Returns (document id, opening) of validation documents of all times."""
  from fnet_t5x.tasks import corpus

  documents = list(corpus.documents('validation'))
  chosen = documents[:: max(1, len(documents) // _NUM_PROMPTS)][-_NUM_PROMPTS:]
  prompts = []
  for name, text in chosen:
    words = text.split()
    middle = len(words) // 2
    prompts.append((name, ' '.join(words[middle : middle + _PROMPT_WORDS])))
  return prompts


def main() -> int:
  """Trains, compares, writes; returns the exit code."""
  start = time.perf_counter()
  trained = subprocess.run(
    [sys.executable, '-m', 'fnet_t5x.train', f'--gin_file={GIN_FILE}'],
    check=False,
  )
  if trained.returncode:
    return trained.returncode

  from fnet_t5x.runtime import console, reporting, text_generation
  from fnet_t5x.tasks import unigram

  losses = [
    (row['step'], row['cross_ent_per_target_token'])
    for row in reporting.read_metrics(MODEL_DIR)
    if row['collection'].startswith('training_eval/')
  ]
  generator = text_generation.TextGenerator(MODEL_DIR)
  unigram_loss = unigram.unigram_loss(
    generator.task_name, generator.feature_lengths, _EVAL_SEED
  )
  (first_step, first), (last_step, last) = losses[0], losses[-1]
  console.say('')
  console.say('validation loss, nats per target token')
  console.say(f'  hybrid, step {first_step:<5}   {first:.3f}')
  console.say(f'  unigram model       {unigram_loss:.3f}')
  console.say(f'  hybrid, step {last_step:<5}   {last:.3f}')
  for name, prompt in held_out_prompts():
    console.say(f'\n[{name}] {prompt} ...')
    console.say(f'  -> {generator.generate(prompt)}')
  console.say(f'\ntook {time.perf_counter() - start:.0f} s; try your own:')
  console.say(
    f'  {sys.executable} -m fnet_t5x.generate --model_dir={MODEL_DIR} '
    '--prompt="My fellow citizens,"'
  )
  if not last < unigram_loss:
    console.say('error: the hybrid is no better than the unigram model')
    return 1
  return 0


if __name__ == '__main__':
  with command_line.one_line_errors():
    command_line.read(sys.argv, __doc__)
    command_line.use_runtime()
    command_line.import_tensorflow()
    sys.exit(main())
