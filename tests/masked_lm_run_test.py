"""A masked language model from training to masks filled in, by our commands."""

import json
import pathlib
import shutil

import gin_commands
import pytest
from gin_commands import run

import fnet_t5x
from fnet_t5x import generate
from fnet_t5x.runtime import eval as eval_lib
from fnet_t5x.runtime import infer as infer_lib
from fnet_t5x.runtime import reporting
from fnet_t5x.runtime import train as train_lib
from fnet_t5x.tasks import catalog  # noqa: F401 (registers configurables)

LENGTHS = {
  'inputs': 32,
  'targets': 32,
  'loss_weights': 32,
  'type_ids': 32,
  'next_sentence_labels': 1,
}
# The experiment, at a size for tests.
BINDINGS = {
  'TASK_FEATURE_LENGTHS': LENGTHS,
  'VOCAB_SIZE': 264,
  'vocabularies.default_vocabulary.vocab_size': 160,
  'EMBED_DIM': 16,
  'MLP_DIM': 32,
  'MAX_ENCODER_LENGTH': 32,
  'MAX_PREDICTIONS': 5,
  'BATCH_SIZE': 16,
  'TRAIN_STEPS': 24,
  'WARMUP_STEPS': 4,
  'LEARNING_RATE': 0.01,
  'EVAL_PERIOD': 24,
  'EVAL_STEPS': 2,
  'STATS_PERIOD': 2,
  'SAVE_PERIOD': 12,
}


@pytest.fixture(autouse=True)
def _commands():
  commands = (train_lib.train, eval_lib.evaluate, infer_lib.infer)
  with gin_commands.of_main(*commands):
    yield


def train(model_dir, **bindings):
  return run(
    train_lib.train,
    ['gin/experiments/fnet_quickstart.gin'],
    MODEL_DIR=str(model_dir),
    **{**BINDINGS, **bindings},
  )


def rows(model_dir):
  return [
    {k: v for k, v in row.items() if not k.startswith('timing/')}
    for row in reporting.read_metrics(str(model_dir))
  ]


@pytest.mark.slow
def test_train_resume_fill_evaluate_and_infer(small_corpus, tmp_path, capsys):
  del small_corpus
  model_dir = tmp_path / 'model'
  assert train(model_dir) == 0
  whole = rows(model_dir)
  losses = [r['mlm_loss'] for r in whole if r['collection'] == 'train']
  assert losses[-1] < losses[0] - 0.2
  (*_, evaluated) = (r for r in whole if r['collection'] != 'train')
  assert 0 <= evaluated['pair_accuracy'] <= 1
  assert evaluated['loss'] == pytest.approx(
    evaluated['mlm_loss'] + evaluated['pair_loss'], rel=0.1
  )
  said = capsys.readouterr().out
  assert '--prompt="... [MASK] ..."' in said

  # A resumed run continues as if it had not been interrupted.
  shutil.rmtree(model_dir / 'checkpoint_24')
  assert train(model_dir) == 0
  assert rows(model_dir) == whole

  filler = fnet_t5x.load(str(model_dir))
  masks = filler.fill_masks('to [MASK] and [MASK]', top_k=4)
  assert [len(found) for found in masks] == [4, 4]
  for found in masks:
    chances = [candidate.probability for candidate in found]
    assert chances == sorted(chances, reverse=True)
    assert 0 < sum(chances) < 1
  capsys.readouterr()
  generate.MaskPrinter(filler, 2, labelled=False).print_texts('a [MASK]', 1)
  assert capsys.readouterr().out.count(', ') == 1

  arguments = {
    name: BINDINGS[name]
    for name in BINDINGS
    if name
    in (
      *('TASK_FEATURE_LENGTHS', 'VOCAB_SIZE', 'EMBED_DIM', 'MLP_DIM'),
      *('MAX_ENCODER_LENGTH', 'MAX_PREDICTIONS'),
      'vocabularies.default_vocabulary.vocab_size',
    )
  }
  files = ['gin/models/fnet_tiny.gin', 'gin/objectives/masked_lm_nsp.gin']
  arguments |= {
    'ACTIVATION_DTYPE': 'float32',
    'BATCH_SIZE': 16,
    'CHECKPOINT_PATH': str(model_dir / 'checkpoint_24'),
  }
  ((_, metrics),) = run(
    eval_lib.evaluate,
    [*files, 'gin/runs/eval.gin'],
    EVAL_OUTPUT_DIR=str(tmp_path / 'eval'),
    **arguments,
  ).items()
  # By teacher forcing, and by the task's metric of scores.
  loss = metrics['mlm_loss']
  assert metrics['cross_ent_per_target_token'] == loss
  assert 'bits_per_byte' not in metrics
  for mode, key in (('predict', 'prediction'), ('score', 'score')):
    (path,) = run(
      infer_lib.infer,
      [*files, 'gin/runs/infer.gin'],
      INFER_OUTPUT_DIR=str(tmp_path / mode),
      INFER_MODE=mode,
      **arguments,
    )
    found = [json.loads(x) for x in pathlib.Path(path).read_text().splitlines()]
    assert all(key in row for row in found)
