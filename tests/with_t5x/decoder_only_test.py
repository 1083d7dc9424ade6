"""GPT-2 under T5X's engine: the same gin, the same losses and predictions."""

import json

import decoder_only_run_test as with_runtime
import numpy as np
import pytest
from golden import runs

from fnet_t5x.gin_root import gin_root

STEPS = with_runtime.STEPS | {
  'TRAIN_STEPS': 6,
  'EVAL_PERIOD': 6,
  'STATS_PERIOD': 1,
  'SAVE_PERIOD': 6,
}
CAUSAL = (
  ['gin/experiments/gpt2_quickstart.gin'],
  {'TASK_FEATURE_LENGTHS': {'targets': 48}},
)
PREFIX = (
  [
    'gin/models/gpt2_tiny.gin',
    'gin/objectives/prefix_lm.gin',
    'gin/runs/pretrain.gin',
  ],
  with_runtime.PREFIX_LM,
)


def command(python, module, files, engine, **bindings):
  return python(
    '-m',
    f'fnet_t5x.{module}',
    f'--gin_search_paths={gin_root()}',
    *(f'--gin_file={name}' for name in files),
    *(f'--gin.{name}={value!r}' for name, value in bindings.items()),
    engine=engine,
  )


@pytest.mark.parametrize('case', [CAUSAL, PREFIX], ids=['causal', 'prefix'])
def test_gpt2_trains_and_predicts_alike(python, tmp_path, case):
  files, own = case
  sizes = with_runtime.SIZES | own
  losses, predictions = {}, {}
  for engine in ('t5x', 'runtime'):
    model_dir = str(tmp_path / engine)
    bindings = sizes | STEPS | {'MODEL_DIR': model_dir}
    said = command(python, 'train', files, engine, **bindings)
    assert f'engine: {engine}' in said
    losses[engine] = runs.losses(model_dir)
    if case is CAUSAL:
      continue
    # Both predict from T5X's checkpoint.
    bindings = sizes | {
      'CHECKPOINT_PATH': str(tmp_path / 't5x/checkpoint_6'),
      'INFER_OUTPUT_DIR': str(tmp_path / f'{engine}_predictions'),
    }
    command(
      python,
      'infer',
      [*files[:2], 'gin/runs/infer.gin'],
      engine,
      **bindings,
    )
    name = '*-predict.jsonl-00000-of-00001'
    (path,) = (tmp_path / f'{engine}_predictions').rglob(name)
    predictions[engine] = [
      json.loads(line)['prediction'] for line in path.read_text().splitlines()
    ]
  assert losses['t5x'][-1] < losses['t5x'][0]
  np.testing.assert_allclose(losses['t5x'], losses['runtime'], rtol=1e-4)
  if predictions:
    assert predictions['t5x'] == predictions['runtime']
