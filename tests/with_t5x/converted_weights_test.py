"""Runs that start from converted weights, under both engines."""

import hugging_face_models
import numpy as np
import published_fnets
import pytest
from golden import runs

from fnet_t5x.convert import hf_conversion
from fnet_t5x.gin_root import gin_root

# The shipped corpus, with 160 pieces, 4 of them special, and 100 sentinels.
IDS = 264
LENGTHS = {'inputs': 24, 'targets': 24}
STEPS = {
  'vocabularies.default_vocabulary.vocab_size': 160,
  'ACTIVATION_DTYPE': 'float32',
  'BATCH_SIZE': 8,
  'DROPOUT_RATE': 0.0,
  'EVAL_PERIOD': 3,
  'EVAL_STEPS': 1,
  'LEARNING_RATE': 0.001,
  'SAVE_PERIOD': 3,
  'STATS_PERIOD': 1,
  'TRAIN_STEPS': 3,
}
T5 = hugging_face_models.T5 | {'vocab_size': IDS}
GPT2 = hugging_face_models.GPT2 | {
  'vocab_size': IDS,
  'n_positions': 64,
  'bos_token_id': IDS - 1,
  'eos_token_id': IDS - 1,
}


def hugging_face(folder, config):
  """Returns the model's gin file and the checkpoint of a converted folder."""
  tensors = hugging_face_models.tensors(config)
  hugging_face_models.write(folder / 'hf', tensors, config)
  path = hf_conversion.from_hugging_face(folder / 'hf', folder / 'out')
  return path.parent / 'model.gin', path


def t5(folder):
  return (*hugging_face(folder, T5), 'prefix_lm', {})


def gpt2(folder):
  return (*hugging_face(folder, GPT2), 'prefix_lm', {})


def fnet(folder):
  """A published FNet of two layers."""
  arrays = published_fnets.leaves(
    ('fourier',) * 2, v=IDS, e=8, d=8, f=16, p=24, t=4
  )
  path = published_fnets.convert(published_fnets.msgpack(arrays), folder)
  sizes = {
    'EMBED_DIM': 8,
    'MLP_DIM': 16,
    'NUM_ENCODER_LAYERS': 2,
    'MAX_ENCODER_LENGTH': 24,
    'MAX_PREDICTIONS': 4,
    'VOCAB_SIZE': IDS,
    'TASK_FEATURE_LENGTHS': LENGTHS | {'loss_weights': 24},
    'PACK': False,
  }
  return 'gin/models/fnet_tiny.gin', path, 'masked_lm', sizes


def train(python, converted, folder, engine, run_files, **bindings):
  """Trains a converted model for three steps; returns its losses."""
  model, _, objective, sizes = converted
  bindings = {
    'TASK_FEATURE_LENGTHS': LENGTHS,
    **STEPS,
    **sizes,
    **bindings,
    'MODEL_DIR': str(folder),
  }
  said = python(
    '-m',
    'fnet_t5x.train',
    f'--gin_search_paths={gin_root()}',
    f'--gin_file={model}',
    f'--gin_file=gin/objectives/{objective}.gin',
    *(f'--gin_file=gin/runs/{name}.gin' for name in run_files),
    *(f'--gin.{name}={value!r}' for name, value in bindings.items()),
    engine=engine,
  )
  assert f'engine: {engine}' in said
  return runs.losses(str(folder))


def start_of(converted):
  """Returns the bindings of a run that starts from its checkpoint."""
  return {
    'INITIAL_CHECKPOINT_PATH': str(converted[1]),
    'INFER_EVAL_DATASET_CFG': None,
  }


@pytest.mark.parametrize('convert', [t5, gpt2, fnet])
def test_both_engines_start_from_the_same_weights(python, tmp_path, convert):
  converted = convert(tmp_path)
  files = ['finetune', 'start_from_weights']
  theirs, ours = (
    train(
      python,
      converted,
      tmp_path / engine,
      engine,
      files,
      **start_of(converted),
    )
    for engine in ('t5x', 'runtime')
  )
  np.testing.assert_allclose(theirs, ours, rtol=1e-4)
  scratch = train(
    python, converted, tmp_path / 'scratch', 'runtime', ['pretrain']
  )
  # Random tensors, but no initial ones: the loss tells whose they are.
  assert abs(scratch[0] - theirs[0]) > 0.1


def test_missing_optimizer_state_names_the_remedy(python, tmp_path):
  converted = t5(tmp_path)
  with pytest.raises(AssertionError, match=r'add.*start_from_weights\.gin'):
    train(
      python,
      converted,
      tmp_path / 'run',
      't5x',
      ['finetune'],
      **start_of(converted),
    )
