"""Cases: measured, skipped for lack of time or memory, failed in one line."""

import time

from fnet_t5x.benchmarks.accelerator.bench import Bench, Setting
from fnet_t5x.benchmarks.accelerator.results import Results
from fnet_t5x.benchmarks.accelerator.time_budget import Clock


def make_bench(tmp_path, seconds=60.0):
  results = Results(tmp_path / 'results.json', {})
  clock = Clock(time.monotonic() + seconds)
  return Bench('s', Setting('cpu', 'float32', toy=True), clock, results)


def rows(bench):
  return [
    (row['labels']['case'], row['status']) for row in bench.results.rows()
  ]


def test_a_failed_case_is_one_line_and_does_not_stop_others(tmp_path):
  bench = make_bench(tmp_path)

  def fail():
    raise RuntimeError('RESOURCE_EXHAUSTED: out of memory\nwith a long tale')

  assert bench.case({'case': 'a'}, fail) is None
  result = bench.case({'case': 'b'}, lambda: {'run_seconds': 1.0})
  assert result['run_seconds'] == 1.0 and result['case_seconds'] >= 0
  assert rows(bench) == [('a', 'failed'), ('b', 'ok')]
  assert bench.results.rows()[0]['result'] == {
    'reason': 'RuntimeError: RESOURCE_EXHAUSTED: out of memory'
  }
  assert bench.found('s', case='b') == result


def test_a_case_that_would_be_cut_off_is_not_started(tmp_path):
  bench = make_bench(tmp_path, seconds=5.0)
  called = []
  measure = lambda: called.append(1) or {}  # noqa: E731
  bench.case({'case': 'first'}, measure, kind='k')
  bench.clock.took('k', 6.0)
  bench.case({'case': 'as long'}, measure, kind='k')
  bench.case({'case': 'guessed'}, measure, kind='other', guess=7.0)
  bench.case({'case': 'short'}, measure, kind='other', guess=1.0)
  assert rows(bench) == [
    ('first', 'ok'),
    ('as long', 'skipped'),
    ('guessed', 'skipped'),
    ('short', 'ok'),
  ]
  assert len(called) == 2
  reason = bench.results.rows()[1]['result']['reason']
  assert reason.startswith('takes about 6 s, ')


def test_a_case_that_needs_too_much_memory_is_skipped(tmp_path):
  bench = make_bench(tmp_path)
  assert bench.case({'case': 'a'}, dict, needs_bytes=1e18) is None
  assert rows(bench) == [('a', 'skipped')]
  reason = bench.results.rows()[0]['result']['reason']
  assert reason.startswith('needs 1000000000.0 GB, ')
