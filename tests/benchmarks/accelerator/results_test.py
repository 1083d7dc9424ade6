"""The JSON file of results, complete at any time, and its queries."""

import json
import math
import signal
import subprocess
import sys
import time

from fnet_t5x.benchmarks.accelerator.results import Results, row_text

# Writes as fast as it can, with a row that makes the file grow.
_WRITER = """
import pathlib, sys
from fnet_t5x.benchmarks.accelerator.results import Results
results = Results(pathlib.Path(sys.argv[1]), {'device_kind': 'none'})
for number in range(10**6):
  results.add('s', {'number': number}, 'ok', {'values': [number] * 1000})
"""


def test_a_killed_run_leaves_a_complete_file(tmp_path):
  for attempt in range(3):
    path = tmp_path / f'{attempt}.json'
    with subprocess.Popen(
      [sys.executable, '-c', _WRITER, str(path)], stdout=subprocess.PIPE
    ) as writer:
      for _ in range(5 + 7 * attempt):
        writer.stdout.readline()
      time.sleep(0.003 * attempt)
      writer.send_signal(signal.SIGKILL)
    content = json.loads(path.read_text())
    assert content['ended'] is None
    numbers = [row['labels']['number'] for row in content['rows']]
    assert len(numbers) >= 5 and numbers == list(range(len(numbers)))


def test_rows_are_printed_kept_and_found(tmp_path, capsys):
  path = tmp_path / 'folder' / 'results.json'
  results = Results(path, {'toy': True})
  results.set_header(backend='cpu')
  results.add('a', {'case': 'x', 'size': 2}, 'ok', {'run_seconds': 0.25})
  results.add('a', {'case': 'x', 'size': 2}, 'failed', {'reason': 'Error: no'})
  results.add('b', {'case': 'x', 'size': 2}, 'ok', {'run_seconds': math.nan})
  results.note('a line')
  results.end('time')
  results.end('complete')
  content = json.loads(path.read_text())
  assert content['header'] == {'toy': True, 'backend': 'cpu'}
  assert content['ended'] == 'time' and content['notes'] == ['a line']
  # JSON has no NaN.
  assert content['rows'][2]['result'] == {'run_seconds': None}
  assert results.find('a', case='x') == {'run_seconds': 0.25}
  assert results.find('a', case='y') is None
  assert [path.name for path in path.parent.iterdir()] == ['results.json']
  assert capsys.readouterr().out.splitlines() == [
    'a: x, 2: run_seconds 0.25',
    'a: x, 2: failed: Error: no',
    'b: x, 2: run_seconds nan',
    'a line',
  ]


def test_long_lists_are_abbreviated_and_no_figure_is_omitted():
  row = {
    'section': 's',
    'labels': {'case': 'c'},
    'status': 'ok',
    'result': {'curve': [0.0] * 9, 'none': None, 'flag': True},
  }
  assert row_text(row) == 's: c: curve [9 values], flag True'
