"""T5X with the files of gin/partitioning/, and scanned layers under them."""

import json
import pathlib

import numpy as np

SCRIPT = pathlib.Path(__file__).parent / 'partitioned_step.py'
CASES = ['data:1', 'model_1d:2', 'model_2d:2', 'fully_sharded:1']
CASES += ['sequence_sharded:2']
# In two slices.
CASES += ['data:1:2', 'model_1d:2:2']


def test_both_engines_take_the_same_steps(python):
  t5x, runtime = (
    json.loads(python(SCRIPT, *CASES, engine=engine, devices=8))
    for engine in ('t5x', 'runtime')
  )
  assert len(t5x) == len(CASES)
  np.testing.assert_allclose(t5x, runtime, rtol=1e-4)
  for losses in t5x:
    np.testing.assert_allclose(losses, t5x[0], rtol=1e-4)
    assert losses[1] < losses[0]
