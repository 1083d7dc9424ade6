"""Masked language models under T5X's engine: the same gin, the same losses."""

import numpy as np
from golden import runs

from fnet_t5x.gin_root import gin_root

LENGTHS = dict.fromkeys(('inputs', 'targets', 'loss_weights', 'type_ids'), 32)
BINDINGS = {
  'TASK_FEATURE_LENGTHS': LENGTHS | {'next_sentence_labels': 1},
  'EMBED_DIM': 32,
  'MLP_DIM': 64,
  'BATCH_SIZE': 8,
  'TRAIN_STEPS': 6,
  'WARMUP_STEPS': 2,
  'LEARNING_RATE': 0.01,
  'EVAL_PERIOD': 3,
  'EVAL_STEPS': 1,
  'SAVE_PERIOD': 6,
  'STATS_PERIOD': 1,
}


def test_masked_lm_trains_alike_under_both_engines(python, tmp_path):
  losses = {}
  for engine in ('t5x', 'runtime'):
    bindings = BINDINGS | {'MODEL_DIR': str(tmp_path / engine)}
    said = python(
      '-m',
      'fnet_t5x.train',
      f'--gin_search_paths={gin_root()}',
      '--gin_file=gin/experiments/fnet_quickstart.gin',
      *(f'--gin.{name}={value!r}' for name, value in bindings.items()),
      engine=engine,
    )
    assert f'engine: {engine}' in said
    losses[engine] = runs.losses(str(tmp_path / engine))
  assert losses['t5x'][-1] < losses['t5x'][0]
  np.testing.assert_allclose(losses['t5x'], losses['runtime'], rtol=1e-4)
