"""docs/PLANS.md: up to date with the committed plans, and its format."""

import json
import pathlib

import pytest

from fnet_t5x import generated_page
from fnet_t5x.gin_root import gin_root
from fnet_t5x.planning import tables

ROOT = pathlib.Path(gin_root())
PLANS = tables.read(ROOT, tables.DOCS / tables.PLANS)
CONTENT = {
  'command': f'python -m fnet_t5x.plan {"--topology=v3:4x4 " * 5}--json=p.json',
  'commit': 'abc',
  'plans': [
    {
      'name': 'small_c4',
      'topology': 'v3:4x4',
      'mesh': {'data': 16, 'model': 2},
      'tokens': 1000,
      'training_flops': 2.5e12,
      'hbm_available': 3 * 2**30,
      'parameters': {'total': 1234567},
      'train': {'memory': 2**31},
      'estimates': {'roofline': {'days': 1.26}, 'compiler': {'days': 2000.0}},
    }
  ],
}


def test_page_and_heads_are_what_the_plans_say():
  """If it fails: python -m fnet_t5x.planning.tables --write."""
  page = (tables.DOCS / tables.PAGE).read_text()
  text = tables.text_of(ROOT, tables.DOCS / tables.PLANS)
  assert generated_page.with_tables(page, text, tables.BEGIN) == page
  for paths, content in PLANS:
    for path in paths:
      assert tables.expected(content) in path.read_text().splitlines()


def test_every_experiment_of_a_size_has_a_plan():
  planned = [path for paths, _ in PLANS for path in paths]
  assert sorted(planned) == tables.experiments(ROOT)
  assert len(planned) == 10


def test_a_plan_as_a_row_and_a_command():
  row, _, *code = tables.table([(['a', 'b'], CONTENT)]).splitlines()[2:]
  assert row == (
    '| `a`, `b` | v3:4x4 | data 16 x model 2 | 1,234,567 | 2.50 | 2.00 | 3.00 '
    '| 1.3 | 2,000.0 | abc |'
  )
  assert code[0] == code[-1] == '```'
  command = ' '.join(line.rstrip('\\').strip() for line in code[1:-1])
  assert command == CONTENT['command']
  assert all(line.endswith(' \\') for line in code[1:-2])
  assert max(map(len, code)) <= 80


def test_plans_of_several_slices_tell_what_crosses_them():
  (plan,) = json.loads(json.dumps(CONTENT['plans']))
  plan |= {'topology': 'v5p:2x4x4', 'num_slices': 2}
  plan['train'] = {
    'collectives': [
      {'kind': 'all-reduce', 'bytes': 2**30},
      {'kind': 'all-reduce', 'bytes': 2**22, 'slice_bytes': 2.0**21},
    ],
    'seconds': {
      'arithmetic': 1.5,
      'memory': 0.25,
      'network': 0.125,
      'slice_network': 0.0005,
    },
  }
  lines = tables.slices_table([CONTENT | {'plans': [plan]}]).splitlines()
  assert max(map(len, lines[:4])) <= 80
  assert lines[7] == (
    '| `small_c4` | 2 x v5p:2x4x4 | data 16 x model 2 | 1,500.0 | 250.0 '
    '| 125.0 | 2.0 | 0.5 | 1.3 |'
  )
  assert 'days on 2 x v5p:2x4x4' in tables.expected({'plans': [plan]})


def test_what_was_copied_is_said_once():
  copied = CONTENT | {'copied': 'rounded'}
  text = tables.table([(['a'], copied), (['b'], copied), (['c'], CONTENT)])
  assert text.splitlines()[-1] == 'Copied (small_c4, small_c4): rounded'


def test_expected_time_replaces_what_a_head_expects():
  head = '# A run.\n#\n# Expected: never.\nA = 1\n'
  line = '# Expected: 1.3 to 2,000.0 days on v3:4x4 (docs/PLANS.md).'
  assert tables.expected(CONTENT) == line
  assert tables.with_expected(head, line) == f'# A run.\n#\n{line}\nA = 1\n'
  with pytest.raises(ValueError, match='no line `# Expected:`'):
    tables.with_expected('A = 1\n', line)


def test_a_plan_without_the_compilers_estimate_has_the_rooflines_time():
  (plan,) = json.loads(json.dumps(CONTENT['plans']))
  del plan['estimates']['compiler']
  content = CONTENT | {'plans': [plan]}
  assert '# Expected: 1.3 days on v3:4x4' in tables.expected(content)
  assert '| 1.3 |  | abc |' in tables.table([(['a'], content)])
