"""Tables of committed runs: their contents, and that the page has them."""

import json

from fnet_t5x import generated_page
from fnet_t5x.benchmarks.accelerator import tables

RUN = {
  'format': 1,
  'header': {
    'card': 'Card X, 1.2, 80 GB',
    'device_kind': 'Card X',
    'date': '2026-01-02 03:04 UTC',
    'commit': 'abc',
    'python': '3.12.1',
    'versions': {'jax': '0.11.2'},
    'command': 'python -m kit',
    'toy': False,
  },
  'ended': 'complete',
  'notes': [],
  'rows': [
    {
      'section': 'ceilings',
      'labels': {'case': 'copy', 'bytes': 2**30},
      'status': 'ok',
      'result': {'bytes_per_second': 2.5e12, 'compile_seconds': 0.5},
    },
    {
      'section': 'mixing',
      'labels': {'shape': [2, 4, 8], 'direction': 'forward', 'case': 'a'},
      'status': 'ok',
      'result': {'run_seconds': 2e-4, 'times_fnet': 0.5, 'times_floor': 9.0},
    },
    {
      'section': 'mixing',
      'labels': {'shape': [2, 4, 8], 'direction': 'forward', 'case': 'b'},
      'status': 'failed',
      'result': {'reason': 'Error: no'},
    },
    {
      'section': 'other',
      'labels': {'network': 'T5'},
      'status': 'ok',
      'result': {'run_seconds': 0.125, 'curve': [1, 2], 'case_seconds': 3.0},
    },
  ],
}


def test_the_page_has_the_tables_of_the_committed_runs():
  page = (generated_page.DOCS / tables.PAGE).read_text()
  want = tables.tables(generated_page.DOCS / 'measurements')
  # On a difference: python -m fnet_t5x.benchmarks.accelerator.tables --write
  assert generated_page.with_tables(page, want, tables.BEGIN) == page


def test_a_run_as_tables(tmp_path):
  (tmp_path / 'run.json').write_text(json.dumps(RUN))
  (tmp_path / 'another.json').write_text('{"benchmark": "mixing"}')
  text = tables.tables(tmp_path)
  assert text.startswith('### Card X\n')
  for line in (
    '| copy of 1024 MiB | 2500 GB/s, read + write | 0.5 |',
    '| a | 200 | 0.5 | 9 |  |  |  |  |',
    '* failed: [2, 4, 8], forward, b: Error: no',
    '| network | run seconds |',
    '| T5 | 0.125 |',
  ):
    assert line in text.splitlines()


def test_the_last_run_of_a_device_is_used_and_toy_runs_are_marked(tmp_path):
  for name, device, toy in (
    ('1.json', 'X', False),
    ('2.json', 'X', True),
    ('3.json', 'X', False),
  ):
    header = {'device_kind': device, 'toy': toy, 'command': name}
    content = {'format': 1, 'header': header, 'ended': None, 'rows': []}
    (tmp_path / name).write_text(json.dumps(content))
  text = tables.tables(tmp_path)
  assert '`1.json`' not in text and '`3.json`' in text
  assert text.count('### X\n') == 1
  assert '### X (toy run: format only)' in text
  assert 'ended: killed' in text
