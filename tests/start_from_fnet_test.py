"""Runs that start from an FNet: trained, continued by a decoder, resumed."""

import pathlib
import shutil

import gin_commands
import masked_lm_run_test
import numpy as np
import pytest
from etils import epath
from gin_commands import run

import fnet_t5x
from fnet_t5x.convert import checkpoint_leaves
from fnet_t5x.runtime import checkpoints, reporting
from fnet_t5x.runtime import train as train_lib
from fnet_t5x.tasks import catalog  # noqa: F401 (registers configurables)

FILES = [
  'gin/models/fnet_encoder_t5_tiny.gin',
  'gin/objectives/prefix_lm.gin',
  'gin/runs/pretrain.gin',
  'gin/runs/start_from_fnet.gin',
]
_FNET = masked_lm_run_test.BINDINGS
BINDINGS = {
  'TASK_FEATURE_LENGTHS': {'inputs': 32, 'targets': 16},
  **{
    name: _FNET[name]
    for name in (
      *('VOCAB_SIZE', 'MAX_ENCODER_LENGTH', 'BATCH_SIZE', 'EVAL_STEPS'),
      'vocabularies.default_vocabulary.vocab_size',
    )
  },
  'ENCODER_EMBED_DIM': _FNET['EMBED_DIM'],
  'ENCODER_MLP_DIM': _FNET['MLP_DIM'],
  # Widths differ: there is a projection.
  'EMBED_DIM': 24,
  'HEAD_DIM': 4,
  'MLP_DIM': 32,
  'NUM_DECODER_LAYERS': 1,
  'ACTIVATION_DTYPE': 'float32',
  'TRAIN_STEPS': 4,
  'EVAL_PERIOD': 0,
  'STATS_PERIOD': 1,
  'SAVE_PERIOD': 2,
  'WARMUP_STEPS': 1,
}


@pytest.fixture(autouse=True)
def _commands():
  with gin_commands.of_main(train_lib.train):
    yield


def train(model_dir, **bindings):
  return run(
    train_lib.train,
    FILES,
    MODEL_DIR=str(model_dir),
    **{**BINDINGS, **bindings},
  )


def encoder_of(checkpoint: pathlib.Path):
  leaves = checkpoint_leaves.read(
    epath.Path(checkpoint), lambda: checkpoints.steps(str(checkpoint.parent))
  )
  return {
    name.removeprefix('target/'): leaf
    for name, leaf in leaves.items()
    if name.startswith('target/encoder/') and '/pooler/' not in name
  }


def losses_of(model_dir):
  rows = reporting.read_metrics(str(model_dir))
  return [r['loss'] for r in rows if r['collection'] == 'train']


@pytest.mark.slow
def test_start_freeze_resume_generate_and_refuse(
  small_corpus, tmp_path, capsys
):
  del small_corpus
  pretrained = tmp_path / 'fnet'
  masked_lm_run_test.train(pretrained, TRAIN_STEPS=6, EVAL_PERIOD=0)
  start = pretrained / 'checkpoint_6'
  want = encoder_of(start)
  assert len(want) == 7 + 8 * 2
  path = {'INITIAL_CHECKPOINT_PATH': str(start)}

  # A frozen encoder is the checkpoint's, after training as before.
  frozen = tmp_path / 'frozen'
  capsys.readouterr()
  assert train(frozen, ENCODER_LEARNING_RATE_SCALE=0.0, **path) == 0
  said = capsys.readouterr().out
  assert 'not in the checkpoint, initialised' in said
  assert 'encoder_projection/kernel' in said
  assert 'predictions_dense/kernel' in said
  got = encoder_of(frozen / 'checkpoint_4')
  assert got.keys() == want.keys()
  for name, leaf in want.items():
    np.testing.assert_array_equal(got[name], leaf, err_msg=name)
  assert losses_of(frozen)[-1] < losses_of(frozen)[0]

  # Otherwise it moves; its first loss is the same.
  whole = tmp_path / 'whole'
  assert train(whole, **path) == 0
  moved = encoder_of(whole / 'checkpoint_4')
  assert all(np.abs(moved[n] - leaf).max() > 0 for n, leaf in want.items())
  assert losses_of(whole)[0] == losses_of(frozen)[0]

  # Resumed, it goes on from its own checkpoint, with its optimizer.
  losses = losses_of(whole)
  shutil.rmtree(whole / 'checkpoint_4')
  assert train(whole, **path) == 0
  assert losses_of(whole) == losses
  resumed = encoder_of(whole / 'checkpoint_4')
  for name, leaf in moved.items():
    np.testing.assert_array_equal(resumed[name], leaf, err_msg=name)

  model = fnet_t5x.load(str(frozen))
  first, second = (
    model.generate(['The state'], temperature=0, max_tokens=5) for _ in '12'
  )
  assert first == second and len(first) == 1

  # Encoders of other sizes are refused before anything is trained.
  with pytest.raises(ValueError, match=r'feed_forward_0/.* there and .* here'):
    train(tmp_path / 'wider', ENCODER_MLP_DIM=40, **path)
  with pytest.raises(ValueError, match=r'_2/.*which the checkpoint lacks'):
    train(tmp_path / 'deeper', NUM_ENCODER_LAYERS=3, **path)
