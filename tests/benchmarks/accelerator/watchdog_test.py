"""The watchdog ends a run that hangs."""

import json
import subprocess
import sys
import time

# The main thread sleeps in C, like a compilation that does not return.
_HANGS = """
import pathlib, sys, time
from fnet_t5x.benchmarks.accelerator.results import Results
from fnet_t5x.benchmarks.accelerator.watchdog import Watchdog
results = Results(pathlib.Path(sys.argv[1]), {})
results.add('s', {'case': 'a'}, 'ok', {'run_seconds': 1.0})
def before():
  results.note('the time is up')
  results.end('time')
watchdog = Watchdog(time.monotonic() + 0.5, before)
if sys.argv[2] == 'hangs':
  time.sleep(60)
watchdog.stop()
time.sleep(1)
results.end('complete')
"""


def run(path, how):
  start = time.monotonic()
  ran = subprocess.run(
    [sys.executable, '-c', _HANGS, str(path), how],
    capture_output=True,
    text=True,
    timeout=50,
  )
  assert ran.returncode == 0, ran.stderr
  assert time.monotonic() - start < 40
  return ran.stdout, json.loads(path.read_text())


def test_a_run_that_hangs_ends_and_keeps_its_results(tmp_path):
  printed, content = run(tmp_path / 'results.json', 'hangs')
  assert printed.splitlines()[-1] == 'the time is up'
  assert content['ended'] == 'time'
  assert len(content['rows']) == 1


def test_a_run_that_ends_in_time_is_not_affected(tmp_path):
  printed, content = run(tmp_path / 'results.json', 'ends')
  assert 'the time is up' not in printed
  assert content['ended'] == 'complete'
