"""Parity of whole runs of the runtime with T5X's, step by step.

One gin file, one seed: the same parameters, batches, losses, optimizer state
and decodes. Numbers of T5X are recorded (`golden/runs.py`).
"""

import json
import pathlib

import gin
import gin_commands
import numpy as np
import pytest
from golden import runs

from fnet_t5x.runtime import train as train_lib

pytestmark = pytest.mark.slow
RECORDED = json.loads(
  pathlib.Path(runs.__file__).with_suffix('.json').read_text()
)['cases']


@pytest.fixture(scope='module', params=RECORDED)
def results(request, tmp_path_factory):
  """Records of a case by the runtime and by T5X."""
  with gin_commands.of_main(train_lib.train):
    yield (
      runs.run(request.param, str(tmp_path_factory.mktemp('run'))),
      RECORDED[request.param],
    )
  gin.clear_config()


def test_parameters_start_with_the_same_names_shapes_axes_and_values(results):
  got, want = results
  assert got['axes'] == want['axes']
  assert_described_alike('initial', got, want)


def test_batches_are_the_same(results):
  got, want = results
  assert got['batches'] == want['batches']


def test_every_step_is_the_same(results):
  got, want = results
  assert got['steps'].keys() == want['steps'].keys()
  for name, values in want['steps'].items():
    assert len(values) == runs.STEPS
    np.testing.assert_allclose(
      got['steps'][name], values, rtol=1e-4, err_msg=name
    )


def test_validation_is_the_same(results):
  got, want = results
  for name, values in want['validation'].items():
    np.testing.assert_allclose(
      got['validation'][name], values, rtol=1e-4, err_msg=name
    )


def test_parameters_and_adafactor_state_end_the_same(results):
  got, want = results
  assert_described_alike('parameters', got, want)
  assert_described_alike('optimizer', got, want)


@pytest.mark.parametrize(
  'results', [c for c in RECORDED if 'decodes' in RECORDED[c]], indirect=True
)
def test_decodes_are_the_same_token_for_token(results):
  got, want = results
  for name, decode in want['decodes'].items():
    assert got['decodes'][name]['tokens'] == decode['tokens'], name
    np.testing.assert_allclose(
      got['decodes'][name]['scores'], decode['scores'], rtol=1e-4, atol=1e-4
    )
  np.testing.assert_allclose(got['scores'], want['scores'], rtol=1e-4)


def assert_described_alike(name, got, want):
  runs.assert_described_alike(got[name], want[name], runs.TOLERANCES[name])
