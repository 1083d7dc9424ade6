"""Runs that one engine starts and the other resumes."""

import json
import pathlib

import numpy as np
import pytest
from golden import runs

RECORDED = json.loads(
  pathlib.Path(runs.__file__).with_suffix('.json').read_text()
)['cases']


@pytest.mark.parametrize('case', ['fnet_t5 0.1', 't5 0.1'])
@pytest.mark.parametrize(
  'engines', [('t5x', 'runtime'), ('runtime', 't5x')], ids='-'.join
)
def test_either_engine_goes_on_with_the_others_run(
  python, tmp_path, case, engines
):
  first, second = engines
  python('runs.py', case, tmp_path, 5, 5, engine=first)
  python('runs.py', case, tmp_path, 10, 5, engine=second)
  # The uninterrupted reference: T5X's own 50 steps.
  want = RECORDED[case]['steps']['loss'][:10]
  np.testing.assert_allclose(runs.losses(str(tmp_path)), want, rtol=1e-4)
