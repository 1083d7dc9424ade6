"""`fnet_t5x.load` in a separate process, as in a program or a notebook."""

import os
import subprocess
import sys

import generation_runs
import gin
import pytest
from checkout import ROOT

from fnet_t5x.runtime import text_generation

PROMPTS = ['abc', 'fed cb']

# Two models of different shapes and lengths, each used before and after the
# other is loaded.
_TWO_MODELS = """
import os, sys
import fnet_t5x
assert 'jax' not in sys.modules and 'tensorflow' not in sys.modules
first = fnet_t5x.load({first!r})
print(first.generate({prompts!r}, temperature=0))
second = fnet_t5x.load({second!r}, checkpoint_step=1)
print(second.generate({prompts!r}, temperature=0))
print(first.generate({prompts!r}, temperature=0))
print(''.join(second.stream({prompts!r}[0], temperature=0)))
print(first.step, second.step, os.environ.get('FNET_T5X_ENGINE'))
print(hasattr(sys.modules['__main__'], 'train'))
"""


def process(code, folder, engine=None):
  environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
  environment.pop('FNET_T5X_ENGINE')
  if engine:
    environment['FNET_T5X_ENGINE'] = engine
  return subprocess.run(
    [sys.executable, '-c', code],
    cwd=folder,
    env=environment,
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
  )


@pytest.fixture(scope='module')
def model_dirs(tmp_path_factory) -> tuple[str, str]:
  return (
    generation_runs.train(tmp_path_factory.mktemp('first')),
    generation_runs.train(
      tmp_path_factory.mktemp('second'),
      'MLP_DIM = 24',
      'RANDOM_SEED = 7',
      "TASK_FEATURE_LENGTHS = {'inputs': 12, 'targets': 9}",
    ),
  )


@pytest.mark.slow
def test_two_models_in_one_process(model_dirs, tmp_path):
  """Each generates the same text as when it is loaded alone."""
  want = []
  for model_dir, step in zip(model_dirs, (2, 1), strict=True):
    gin.clear_config()
    alone = text_generation.TextGenerator(model_dir, step)
    want.append(alone.generate(PROMPTS, temperature=0))
    gin.clear_config()
  first, second = model_dirs
  code = _TWO_MODELS.format(first=first, second=second, prompts=PROMPTS)
  done = process(code, tmp_path)
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines() == [
    *(str(want[0]), str(want[1]), str(want[0]), want[1][0]),
    '2 1 None',
    'False',
  ]
  assert not done.stderr


def test_folder_is_checked_before_heavy_imports(tmp_path):
  code = """
import sys, fnet_t5x
try:
  fnet_t5x.load('none')
except FileNotFoundError as error:
  print(error, 'jax' in sys.modules or 'tensorflow' in sys.modules)
"""
  done = process(code, tmp_path)
  assert done.stdout == (
    'none: no such folder; name the MODEL_DIR of a training run False\n'
  )


@pytest.mark.slow
def test_engine_that_the_user_chose_stays(model_dirs, tmp_path):
  """With T5X `load` fails; the environment variable is unchanged."""
  (tmp_path / 't5x').mkdir()
  (tmp_path / 't5x/__init__.py').write_text('')
  code = f"""
import os, sys, fnet_t5x
sys.path.append({str(tmp_path)!r})
try:
  print(fnet_t5x.load({model_dirs[0]!r}).step)
except ValueError as error:
  print(error)
print(os.environ.get('FNET_T5X_ENGINE'))
"""
  refused, engine = process(code, tmp_path, 't5x').stdout.splitlines()
  assert 'needs the embedded runtime' in refused
  assert engine == 't5x'
  assert process(code, tmp_path).stdout.splitlines() == ['2', 'None']
