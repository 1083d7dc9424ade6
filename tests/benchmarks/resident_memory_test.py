"""The soak test of a run that saves often: readings, growth, table and JSON."""

import json
import sys

import pytest

from fnet_t5x.benchmarks import resident_memory


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_prints_the_table_and_writes_json(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('FNET_T5X_CACHE_DIR', str(tmp_path / 'cache'))
  # One device, since the batch has only 4 rows.
  monkeypatch.setenv('XLA_FLAGS', '--xla_backend_optimization_level=0')
  path = tmp_path / 'memory.json'
  resident_memory.main(
    [
      *('--steps', '24', '--save_period', '1', '--eval_period', '12'),
      *('--json', str(path)),
    ]
  )
  assert 'KiB per save' in capsys.readouterr().out
  content = json.loads(path.read_text())
  assert isinstance(content['settings']['bytes_per_save'], float)
  rows = content['rows']
  assert rows[-1]['step'] > 12
  for row in rows:
    assert row['saves'] == row['step']
    assert row['resident_bytes'] > 2**27


def test_growth_is_measured_after_the_warm_up():
  warming = [(step, 1000 * step) for step in range(1, 100)]
  flat = [(step, 10**5 + 7 * step) for step in range(100, 301)]
  assert resident_memory.growth(warming + flat) == pytest.approx(7)
  assert resident_memory.growth(flat) == pytest.approx(7)
  # Temporary memory is not growth.
  busy = [(step, size + 10**6 * (step % 3 > 0)) for step, size in flat]
  assert resident_memory.growth(busy) == pytest.approx(7, abs=0.5)
  with pytest.raises(ValueError, match='--steps'):
    resident_memory.growth(flat[:2])
  with pytest.raises(ValueError, match='--steps'):
    resident_memory.growth([])


def test_points_are_evenly_spaced_and_include_the_last():
  readings = [(step, -step) for step in (1, 2, 3, 50, 98, 99, 100)]
  assert resident_memory.points(readings, 3) == [
    (1, -1),
    (50, -50),
    (100, -100),
  ]
  assert resident_memory.points(readings[:1], 3) == readings[:1]


def test_a_failed_run_is_reported(monkeypatch):
  monkeypatch.setattr(resident_memory, 'GIN_FILE', 'no/such.gin')
  with pytest.raises(RuntimeError, match=r'(?s)the run failed:.*no/such.gin'):
    resident_memory.measure(4, 4, 4)


@pytest.mark.parametrize('flag', ['--steps', '--save_period', '--eval_period'])
def test_bad_input_is_one_line(capsys, flag):
  with pytest.raises(SystemExit) as error:
    resident_memory.main([flag, '0'])
  assert error.value.code == 2
  assert 'at least 1' in capsys.readouterr().err.splitlines()[-1]
