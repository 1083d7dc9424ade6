"""GPT-2 from training to generated text, by our commands."""

import json
import pathlib
import shutil

import gin_commands
import numpy as np
import pytest
from gin_commands import run

import fnet_t5x
from fnet_t5x.runtime import eval as eval_lib
from fnet_t5x.runtime import infer as infer_lib
from fnet_t5x.runtime import reporting
from fnet_t5x.runtime import train as train_lib
from fnet_t5x.tasks import catalog  # noqa: F401 (registers configurables)

SIZES = {
  'vocabularies.default_vocabulary.vocab_size': 160,
  'VOCAB_SIZE': 264,
  'EMBED_DIM': 16,
  'NUM_HEADS': 2,
  'NUM_DECODER_LAYERS': 2,
  'MAX_LENGTH': 48,
  'ACTIVATION_DTYPE': 'float32',
  'BATCH_SIZE': 16,
}
STEPS = {
  'TRAIN_STEPS': 12,
  'WARMUP_STEPS': 2,
  'EVAL_PERIOD': 12,
  'EVAL_STEPS': 2,
  'STATS_PERIOD': 2,
  'SAVE_PERIOD': 6,
}
PREFIX_LM = {
  'TASK_FEATURE_LENGTHS': {'inputs': 32, 'targets': 16},
  'PREFIX_ATTENTION': True,
}


@pytest.fixture(autouse=True)
def _commands():
  commands = (train_lib.train, eval_lib.evaluate, infer_lib.infer)
  with gin_commands.of_main(*commands):
    yield


def losses(model_dir, collection='train'):
  return [
    row['cross_ent_per_target_token']
    for row in reporting.read_metrics(str(model_dir))
    if row['collection'].startswith(collection)
  ]


@pytest.mark.slow
@pytest.mark.parametrize(
  'mixing', [('attention', 'attention'), ('fourier', 'toeplitz')]
)
def test_causal_lm_trains_resumes_and_generates(small_corpus, tmp_path, mixing):
  del small_corpus
  model_dir = tmp_path / 'model'

  def train():
    return run(
      train_lib.train,
      ['gin/experiments/gpt2_quickstart.gin'],
      MODEL_DIR=str(model_dir),
      DECODER_MIXING=mixing,
      TASK_FEATURE_LENGTHS={'targets': 48},
      **SIZES | STEPS,
    )

  assert train() == 0
  whole = losses(model_dir)
  assert whole[-1] < whole[0] - 0.2
  # A resumed run continues as if it had not been interrupted.
  shutil.rmtree(model_dir / 'checkpoint_12')
  assert train() == 0
  assert losses(model_dir) == whole

  model = fnet_t5x.load(str(model_dir))
  options = {'temperature': 0, 'max_tokens': 6}
  once, again = (model.generate(['to the'], **options) for _ in range(2))
  assert once == again
  # Prompt and continuation share the decoder's length.
  (text,) = model.generate(['to the'], temperature=0)
  assert text.startswith(once[0])
  with pytest.raises(ValueError, match='reads at most 47'):
    model.generate(['to the ' * 40], **options)


@pytest.mark.slow
def test_prefix_lm_trains_evaluates_and_predicts(small_corpus, tmp_path):
  del small_corpus
  files = ['gin/models/gpt2_tiny.gin', 'gin/objectives/prefix_lm.gin']
  model_dir = tmp_path / 'model'
  assert not run(
    train_lib.train,
    [*files, 'gin/runs/pretrain.gin'],
    MODEL_DIR=str(model_dir),
    **SIZES | STEPS | PREFIX_LM,
  )
  whole = losses(model_dir)
  assert whole[-1] < whole[0] - 0.2

  arguments = {
    **SIZES,
    **PREFIX_LM,
    'CHECKPOINT_PATH': str(model_dir / 'checkpoint_12'),
  }
  ((_, metrics),) = run(
    eval_lib.evaluate,
    [*files, 'gin/runs/eval.gin'],
    EVAL_OUTPUT_DIR=str(tmp_path / 'eval'),
    **arguments,
  ).items()
  assert np.isfinite(metrics['cross_ent_per_target_token'])
  (path,) = run(
    infer_lib.infer,
    [*files, 'gin/runs/infer.gin'],
    INFER_OUTPUT_DIR=str(tmp_path / 'predict'),
    INFER_MODE='predict',
    **arguments,
  )
  found = [json.loads(x) for x in pathlib.Path(path).read_text().splitlines()]
  assert found
  assert all(isinstance(row['prediction'], str) for row in found)

  # The command that generates reads the prompt as the inputs.
  model = fnet_t5x.load(str(model_dir))
  (text,) = model.generate(['to the'], temperature=0, max_tokens=4)
  assert isinstance(text, str)
