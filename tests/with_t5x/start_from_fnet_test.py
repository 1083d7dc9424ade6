"""T5X starts the hybrid from an FNet, as the runtime does."""

import numpy as np
import pytest
import start_from_fnet_test as with_runtime
from golden import runs
from masked_lm_run_test import BINDINGS as FNET

from fnet_t5x.gin_root import gin_root


def train(python, files, model_dir, engine, steps=4, **bindings):
  bindings |= {
    'MODEL_DIR': str(model_dir),
    'EVAL_PERIOD': 4,
    'STATS_PERIOD': 1,
    'SAVE_PERIOD': 4,
    'TRAIN_STEPS': steps,
    'EVAL_STEPS': 1,
  }
  said = python(
    '-m',
    'fnet_t5x.train',
    f'--gin_search_paths={gin_root()}',
    *(f'--gin_file={name}' for name in files),
    *(f'--gin.{name}={value!r}' for name, value in bindings.items()),
    engine=engine,
  )
  assert f'engine: {engine}' in said


@pytest.mark.parametrize('scale', [0.0, 0.5])
def test_t5x_starts_from_an_fnet(python, tmp_path, scale):
  files = ['gin/experiments/fnet_quickstart.gin']
  sizes = {'WARMUP_STEPS': 1}
  train(python, files, tmp_path / 'fnet', 'runtime', **{**FNET, **sizes})
  start = tmp_path / 'fnet/checkpoint_4'
  bindings = with_runtime.BINDINGS | {
    'INITIAL_CHECKPOINT_PATH': str(start),
    'ENCODER_LEARNING_RATE_SCALE': scale,
  }
  losses, encoders = {}, {}
  for engine in ('t5x', 'runtime'):
    model_dir = tmp_path / engine
    train(python, with_runtime.FILES, model_dir, engine, **bindings)
    losses[engine] = runs.losses(str(model_dir))
    encoders[engine] = with_runtime.encoder_of(model_dir / 'checkpoint_4')
  np.testing.assert_allclose(losses['t5x'][0], losses['runtime'][0], rtol=1e-4)
  want = with_runtime.encoder_of(start)
  for engine, got in encoders.items():
    assert got.keys() == want.keys(), engine
    for name, leaf in want.items():
      assert np.array_equal(got[name], leaf) == (scale == 0), (engine, name)

  # T5X resumes from its own checkpoint, with its own position in the data.
  train(python, with_runtime.FILES, tmp_path / 't5x', 't5x', 6, **bindings)
  assert (tmp_path / 't5x/checkpoint_6').is_dir()
