"""The user's own text, as in the README: train, resume, evaluate, generate."""

import json
import os
import re
import subprocess
import sys

import pytest
import seqio
from checkout import ROOT

pytestmark = pytest.mark.slow

# The README's run, with fewer layers, steps and texts.
SMALL = [
  '--gin.EMBED_DIM=16',
  '--gin.NUM_HEADS=2',
  '--gin.HEAD_DIM=8',
  '--gin.MLP_DIM=32',
  '--gin.NUM_ENCODER_LAYERS=2',
  '--gin.NUM_DECODER_LAYERS=1',
  '--gin.NUM_ATTENTION_LAYERS=1',
  '--gin.VOCABULARY_PIECES=600',
  '--gin.TRAIN_STEPS=4',
  '--gin.EVAL_PERIOD=2',
  '--gin.EVAL_STEPS=2',
  '--gin.STATS_PERIOD=2',
]
CODE = """>>> def f(x):
...   return x
>>> f(1)
1

\tif a:\t# tab
    b  =  "é☃"
"""


def python(folder, *arguments):
  done = subprocess.run(
    [sys.executable, *arguments],
    cwd=folder,
    env={
      **os.environ,
      'PYTHONPATH': str(ROOT),
      'HOME': str(folder),
      'FNET_T5X_CACHE_DIR': '',
      'XDG_CACHE_HOME': str(folder / 'cache'),
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


def command(folder, name, *arguments):
  return python(folder, '-m', f'fnet_t5x.{name}', *arguments)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A folder with a run on two files, and the output of training."""
  folder = tmp_path_factory.mktemp('own')
  (folder / 'corpus').mkdir()
  words = ''.join(f'{n} words and {n * n} others\n' for n in range(400))
  (folder / 'corpus/small.txt').write_text(CODE * 40)
  (folder / 'corpus/large.txt').write_text(words + CODE)
  said = command(
    folder,
    'train',
    '--gin_file=gin/experiments/your_text.gin',
    "--gin.TEXT_FILES='~/corpus/*.txt'",
    '--model_dir=~/runs/mine',
    *SMALL,
  )
  return folder, said


def test_a_notice_about_the_text_precedes_training(trained):
  said = trained[1]
  before, _, after = said.partition('compil')
  assert 'text: 2 files, 2 documents' in before
  assert 'held out for validation' in before
  assert 'vocabulary: 6' in before
  assert 'gin/vocabularies/own.gin' not in said

  assert 'step 4/4' in after


def test_evaluation_during_training(trained):
  rows = [
    json.loads(line)
    for line in (trained[0] / 'runs/mine/metrics.jsonl')
    .read_text()
    .splitlines()
  ]
  evaluated = [
    row['step'] for row in rows if row['collection'].startswith('training_eval')
  ]
  assert evaluated == [0, 2, 4]


def test_the_vocabulary_spells_code(trained):
  path = trained[0] / 'runs/mine/vocabulary.model'
  vocabulary = seqio.SentencePieceVocabulary(str(path), extra_ids=100)
  assert vocabulary.decode(vocabulary.encode(CODE)) == CODE


def test_python_of_the_readme(trained):
  text = (ROOT / 'README.md').read_text()
  (code,) = re.findall(r'^```python\n(.*?)^```$', text, re.M | re.S)
  assert 'runs/mine' in code
  assert python(trained[0], '-c', code).strip()


def test_the_model_directory_is_enough(trained):
  folder, _ = trained
  moved = folder / 'elsewhere'
  moved.mkdir()
  (folder / 'runs/mine').rename(moved / 'model')
  for path in (folder / 'cache/fnet_t5x/vocabularies').iterdir():
    path.unlink()
  said = command(
    moved,
    'generate',
    '--model_dir=model',
    '--prompt=words and',
    '--max_tokens=8',
    '--num_samples=2',
  )
  assert said.strip()
  said = command(moved, 'eval', '--model_dir=model')
  assert 'fnet_text_prefix_lm' in said
  (row,) = (
    json.loads(line)
    for line in (moved / 'model/eval/eval.jsonl').read_text().splitlines()
  )
  assert row['step'] == 4
