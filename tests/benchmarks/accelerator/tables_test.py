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
      'section': 'generation',
      'labels': {
        'network': 'hybrid',
        'size': 'base',
        'prefix': 512,
        'rows': 8,
        'tokens': 128,
      },
      'status': 'ok',
      'result': {
        'encode_seconds': 0.004,
        'first_token_seconds': 0.005,
        'token_seconds': 0.001,
        'all_seconds': 0.132,
        'tokens_per_second': 7750.0,
        'speed_of_t5': 1.5,
        'self_cache_bytes': 2e6,
        'cross_cache_bytes': 8e6,
      },
    },
    {
      'section': 'encoders',
      'labels': {
        'encoder': 'FNet',
        'size': 'base',
        'layers': 12,
        'length': 512,
        'rows': 4,
      },
      'status': 'ok',
      'result': {
        'run_seconds': 0.02,
        'sequences_per_second': 200.0,
        'speed_of_bert': 1.7,
      },
    },
    *(
      {
        'section': 'quality',
        'labels': {
          'case': 'point',
          'network': network,
          'size': 'tiny',
          'seed': 1,
          'at': at,
        },
        'status': 'ok',
        'result': {
          'share': share,
          'steps': steps,
          'loss': loss,
          'standard_error': 0.01,
        },
      }
      for network, at, share, steps, loss in (
        ('T5', 'time', 0.51, 7, 5.0),
        ('T5', 'time', 1.01, 14, 4.0),
        ('T5', 'steps', 0.6, 8, 4.75),
        ('hybrid', 'time', 1.0, 20, 3.9),
        ('hybrid', 'steps', 0.4, 8, 4.5),
        ('hybrid', 'steps', 0.8, 16, 4.25),
      )
    ),
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
    '| base, hybrid | 8 x 512 + 128 | 4 | 5 | 1 | 132 | 7750 | 1.5 | 2 | 8 |',
    '| base, FNet | 12 | 4 x 512 | 20 | 200 | 1.7 |',
    '| loss at equal times | 50 % | 100 % |',
    '| tiny, T5, seed 1 | 5.000 ± 0.010 (7 steps) | 4.000 ± 0.010 (14 steps) |',
    '| tiny, hybrid, seed 1 |  | 3.900 ± 0.010 (20 steps) |',
    '| loss at equal steps | 8 | 16 |',
    '| tiny, T5, seed 1 | 4.750 ± 0.010 |  |',
    '| tiny, hybrid, seed 1 | 4.500 ± 0.010 | 4.250 ± 0.010 |',
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
