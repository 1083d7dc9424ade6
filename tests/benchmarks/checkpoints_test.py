"""The benchmark of checksums, on a one-megabyte state."""

import json

import numpy as np
import pytest

from fnet_t5x.benchmarks import checkpoints
from fnet_t5x.runtime import checksums


@pytest.mark.slow
def test_prints_the_table_and_writes_json(tmp_path, capsys):
  path = tmp_path / 'checkpoints.json'
  checkpoints.main(
    [
      *('--megabytes', '1', '--rounds', '2', '--folder', str(tmp_path)),
      *('--json', str(path)),
    ]
  )
  out = capsys.readouterr().out
  assert 'a state of 1 MiB' in out and 'taken unchecked' not in out
  content = json.loads(path.read_text())
  assert content['settings'] == {'megabytes': 1, 'rounds': 2}
  rows = content['rows']
  assert [(row['action'], row['side']) for row in rows] == [
    (action, side)
    for action in checkpoints.ACTIONS
    for side in checkpoints.SIDES
  ]
  for row in rows:
    assert 0 < row['least_seconds'] <= row['median_seconds']
    assert row['ratio'] == 1 or row['side'] == checkpoints.SIDES[1]
    assert row['rounds'] == 2
  # The checkpoints have been removed.
  assert list(tmp_path.iterdir()) == [path]


def test_sides_differ_only_by_checksums(tmp_path, monkeypatch):
  seen = {}

  def timed(cases, **_):
    for side, case in cases.items():
      seen[side] = case()
      seen.setdefault('recorded', {})[side] = [
        checksums.is_recorded(path)
        for path in tmp_path.glob(f'{side.replace(" ", "_")}/checkpoint_*')
      ]
    return {side: np.array([1.0, 3.0, 2.0]) for side in cases}

  monkeypatch.setattr(checkpoints, 'time_in_turns', timed)
  rows = checkpoints.measure(1, 3, str(tmp_path))
  assert seen['recorded'] == {'without': [False], 'with checksums': [True]}
  assert [row['median_seconds'] for row in rows] == [2.0] * 4
  assert [row['bytes_per_second'] for row in rows] == [2.0**19] * 4
  arrays = [seen[side]['target'] for side in checkpoints.SIDES]
  expected = checkpoints.make_state(1).params
  assert sum(array.nbytes for array in expected.values()) == 2**20
  for restored in arrays:
    assert restored.keys() == expected.keys()
    for name, array in expected.items():
      np.testing.assert_array_equal(restored[name], array)


@pytest.mark.parametrize(
  ('arguments', 'line'),
  [
    (['--megabytes', '0'], 'at least 1'),
    (['--rounds', '-1'], 'at least 1'),
    (['--folder', 'no/such'], 'no such folder: no/such'),
  ],
)
def test_bad_input_is_one_line(capsys, arguments, line):
  with pytest.raises(SystemExit) as error:
    checkpoints.main(arguments)
  assert error.value.code == 2
  assert line in capsys.readouterr().err.splitlines()[-1]
