"""T5X resumes a run from a converted checkpoint of its own."""

import json
import pathlib
import shutil

import numpy as np
from golden import runs

from fnet_t5x.convert import checkpoint

RECORDED = json.loads(
  pathlib.Path(runs.__file__).with_suffix('.json').read_text()
)['cases']


def test_t5x_goes_on_after_a_round_trip(python, tmp_path):
  case, run = 'fnet_t5 0.1', tmp_path / 'run'
  python('runs.py', case, run, 5, 5)
  scanned = checkpoint.convert(run, tmp_path / 'scanned')
  back = checkpoint.convert(scanned, tmp_path / 'back')
  # Replaces T5X's checkpoint, including its position in the data.
  shutil.rmtree(run / 'checkpoint_5')
  shutil.copytree(back, run / 'checkpoint_5')
  python('runs.py', case, run, 10, 5)
  want = RECORDED[case]['steps']['loss'][:10]
  np.testing.assert_allclose(runs.losses(str(run)), want, rtol=1e-4)
