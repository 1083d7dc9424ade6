"""Records of runs that an earlier call left: continued, or refused."""

import pytest

from fnet_t5x import result_table
from fnet_t5x.benchmarks import equal_training

SETTINGS = {'steps': 10, 'minutes': None, 'sizes': (1, 2), 'models': ['a']}
RUNS = [{'model': 'a', 'seed': 1, 'loss': 2.0}]


@pytest.fixture
def file(tmp_path):
  path = tmp_path / 'runs.json'
  result_table.write_json(path, 'mixers', SETTINGS, RUNS)
  return path


def lasting(**changes):
  return {k: v for k, v in {**SETTINGS, **changes}.items() if k != 'models'}


def test_runs_of_the_same_settings_are_continued(file, tmp_path):
  assert equal_training.recorded(file, 'mixers', lasting()) == RUNS
  assert [path.name for path in tmp_path.iterdir()] == ['runs.json']


def test_a_new_file_has_no_runs(tmp_path):
  empty = tmp_path / 'empty.json'
  empty.touch()
  for path in (None, tmp_path / 'new.json', empty):
    assert equal_training.recorded(path, 'mixers', lasting()) == []


def test_other_settings_are_named(file):
  with pytest.raises(
    ValueError, match=r'runs\.json.*steps 10, not 20'
  ) as error:
    equal_training.recorded(file, 'mixers', lasting(steps=20))
  assert '\n' not in str(error.value) and 'sizes' not in str(error.value)


def test_other_files_are_refused(file):
  with pytest.raises(ValueError, match='has runs of mixers'):
    equal_training.recorded(file, 'quality', lasting())
  for text in ('[]', '{"rows": []}', 'not JSON'):
    file.write_text(text)
    with pytest.raises(ValueError, match='not a JSON file of runs'):
      equal_training.recorded(file, 'mixers', lasting())
