"""The soak test of a run that saves often: readings, growth, table and JSON."""

import json
import os
import sys

import numpy as np
import pytest
from checkout import ROOT

from fnet_t5x.benchmarks import resident_memory


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_prints_the_table_and_writes_json(
  small_corpus, tmp_path, monkeypatch, capsys
):
  # The vocabulary of the whole corpus takes longer than the run.
  site = small_corpus.parents[2]
  monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(site), str(ROOT)]))
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
  for name in ('bytes_per_save', 'standard_error'):
    assert isinstance(content['settings'][name], float)
  rows = content['rows']
  assert rows[-1]['step'] > 12
  for row in rows:
    assert row['saves'] == row['step']
    assert row['resident_bytes'] > 2**27


def test_growth_is_measured_after_the_warm_up():
  warming = [(step, 1000 * step) for step in range(1, 100)]
  flat = [(step, 10**5 + 7 * step) for step in range(100, 301)]
  for readings in (warming + flat, flat):
    trend = resident_memory.growth(readings)
    assert trend.per_step == pytest.approx(7)
    assert trend.standard_error == pytest.approx(0, abs=1e-3)
  # Temporary memory is not growth.
  busy = [(step, size + 10**6 * (step % 3 > 0)) for step, size in flat]
  assert resident_memory.growth(busy).per_step == pytest.approx(7, abs=0.5)
  with pytest.raises(ValueError, match='--steps'):
    resident_memory.growth(flat[:14])
  with pytest.raises(ValueError, match='--steps'):
    resident_memory.growth([])


def test_the_standard_error_is_that_of_many_runs():
  random = np.random.default_rng(0)
  steps = np.arange(15)
  trends = [
    resident_memory.growth(
      list(zip(steps, random.normal(1e6, 1e3, 15).round(), strict=True))
    )
    for _ in range(500)
  ]
  slopes, errors = np.array(trends).T
  assert np.sqrt(np.mean(errors**2)) == pytest.approx(slopes.std(), rel=0.1)


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
