"""Golden values recorded from T5X equal what T5X computes."""

import json
import pathlib

import numpy as np
import pytest
from golden import runs

GOLDEN = pathlib.Path(runs.__file__).parent


@pytest.mark.parametrize(
  'name', ['decoding', 'models', 'optimizer', 't5_network']
)
def test_recording_is_t5xs(python, name):
  assert_alike(*compared(python, name), name)


def test_recorded_runs_are_t5xs(python):
  got, want = compared(python, 'runs')
  for case, recorded in want['cases'].items():
    for name, tolerance in runs.TOLERANCES.items():
      runs.assert_described_alike(
        got['cases'][case].pop(name), recorded.pop(name), tolerance
      )
  assert_alike(got, want, 'runs')


def compared(python, name):
  """Returns T5X's values, and those recorded."""
  recorded = GOLDEN / f'{name}.json'
  return json.loads(python(f'{name}.py')), json.loads(recorded.read_text())


def assert_alike(got, want, where):
  """Equal except for the last digits of floats."""
  if isinstance(want, dict):
    assert got.keys() == want.keys(), where
    for key, value in want.items():
      assert_alike(got[key], value, f'{where}/{key}')
  elif isinstance(want, list):
    assert len(got) == len(want), where
    for index, value in enumerate(want):
      assert_alike(got[index], value, f'{where}/{index}')
  elif isinstance(want, float):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6, err_msg=where)
  else:
    assert got == want, where
