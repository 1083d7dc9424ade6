"""The plan command: flags, table, and one line for invalid input."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from planned_runs import FILES, SMALL, arguments

from fnet_t5x.planning import tables

RUN = arguments(FILES)
RUN_SMALL = arguments(FILES, (*SMALL, 'TRAIN_STEPS = 1000'))


def plan(*arguments, without_libtpu=False):
  environment = dict(os.environ)
  if without_libtpu:
    environment['PYTHONPATH'] = os.pathsep.join(
      path
      for path in environment.get('PYTHONPATH', '').split(os.pathsep)
      if not os.path.isdir(os.path.join(path, 'libtpu'))
    )
  return subprocess.run(
    [sys.executable, '-m', 'fnet_t5x.plan', *arguments],
    capture_output=True,
    text=True,
    env=environment,
    check=False,
  )


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (RUN, 'no --topology given'),
    ((*RUN, '--topology=v4'), 'write a TPU slice as v4:4x4x8'),
    ((*RUN, '--topology=b300:8'), "unknown chip 'b300'"),
    (('--topology=cpu:8',), 'no --gin_file given'),
    ((*RUN, '--topology=cpu:8', '--json=none/p.json'), 'no folder'),
    ((*RUN, '--topology=cpu:8', 'more'), 'no such argument: more'),
    (
      (*RUN, '--topology=h100:8', '--num_slices=2'),
      'no network between slices is known for h100',
    ),
  ],
)
def test_bad_flags_are_one_line_at_once(arguments, message):
  found = plan(*arguments)
  assert found.returncode == 1
  assert message in found.stderr.splitlines()[0]
  assert not found.stdout


def test_help_is_quick_and_names_every_flag():
  found = plan('--help')
  assert found.returncode == 0
  for name in ('topology', 'compare', 'nodecoding', 'thorough', 'json'):
    assert name in found.stdout


@pytest.mark.slow
def test_plans_stand_side_by_side(tmp_path):
  path = tmp_path / 'plan.json'
  found = plan(
    *RUN_SMALL,
    '--topology=h100:8',
    '--gin.NUM_PARTITIONS=2',
    '--compare=gin/models/t5_tiny.gin',
    f'--json={path}',
  )
  assert found.returncode == 0, found.stderr
  for text in ('fnet_t5_tiny', 't5_tiny', 'all-reduce', 'roofline'):
    assert text in found.stdout
  content = json.loads(path.read_text())
  assert content['command'].startswith('python -m fnet_t5x.plan --gin_file=')
  assert '--topology=h100:8' in content['command']
  # docs/PLANS.md reads such files.
  assert '| h100:8 | data 4 x model 2 |' in tables.table([(['a'], content)])
  hybrid, t5 = content['plans']
  # Only the architecture and size are replaced by t5_tiny's.
  assert t5['batch_size'] == hybrid['batch_size'] == 16
  assert t5['mesh'] == hybrid['mesh'] == {'data': 4, 'model': 2}
  assert t5['parameters']['total'] > hybrid['parameters']['total']
  for each in (hybrid, t5):
    assert each['fits'] and each['hbm_available'] == 60e9
    times = each['train']['seconds']
    assert times['roofline'] == max(
      times['arithmetic'], times['memory'], times['network']
    )
    assert times['arithmetic'] == each['train']['cost']['flops'] / 989e12
    estimate = each['estimates']['roofline']
    assert estimate['days'] == pytest.approx(
      1000 * times['roofline'] / 86400, rel=1e-6
    )
    assert estimate['mfu'] == pytest.approx(
      each['training_flops'] / (times['roofline'] * 8 * 989e12), rel=1e-6
    )
    assert each['step']['tokens'] == 16


@pytest.mark.slow
def test_two_slices_are_told_apart(tmp_path):
  path = tmp_path / 'plan.json'
  found = plan(
    *RUN_SMALL,
    *('--topology=cpu:2', '--num_slices=2', '--nodecoding', f'--json={path}'),
  )
  assert found.returncode == 0, found.stderr
  assert found.stdout.startswith('2 x cpu:2, 4 devices simulated')
  assert 'sent to other slices, per device and step' in found.stdout
  content = json.loads(path.read_text())
  (made,) = content['plans']
  assert made['mesh'] == {'replica': 2, 'data': 2, 'model': 1}


@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None,
  reason="libtpu is not installed (pip install 'fnet_t5x[plan]')",
)
@pytest.mark.slow
@pytest.mark.parametrize('slices', [1, 2])
def test_the_tpu_compiler_plans_a_slice(tmp_path, slices):
  path = tmp_path / 'plan.json'
  found = plan(
    *RUN_SMALL,
    *('--topology=v5e:2x2', f'--num_slices={slices}', '--nodecoding'),
    f'--json={path}',
  )
  assert found.returncode == 0, found.stderr
  content = json.loads(path.read_text())
  (made,) = content['plans']
  assert made['devices'] == 4 * slices and made['fits']
  assert (made['train']['seconds']['slice_network'] > 0) == (slices > 1)
  where = ('', '| 2 x v5e:2x2 | replica 2 x data 4 x model 1 |')[slices - 1]
  assert where in tables.table([(['a'], content)])
  assert made['train']['cost']['cycles'] > 0
  assert made['train']['seconds']['compiler'] > 0


def test_without_the_tpu_compiler_the_line_says_how_to_get_it():
  found = plan(*RUN, '--topology=v4:4x4x8', without_libtpu=True)
  if importlib.util.find_spec('libtpu') and 'PYTHONPATH' not in os.environ:
    pytest.skip('libtpu is installed')
  assert found.returncode == 1
  assert "pip install 'fnet_t5x[plan]'" in found.stderr.splitlines()[0]
