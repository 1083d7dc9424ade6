"""The command: invalid input, and complete runs of one section."""

import json
import subprocess
import sys

import pytest

from fnet_t5x.benchmarks.accelerator import command


@pytest.mark.parametrize(
  'arguments, says',
  [
    ([], '--out DIR is required'),
    (['--out', 'x', '--minutes', '0'], '--minutes 0: must be greater than 0'),
    (['--out', 'x', '--minutes', 'nan'], '--minutes nan'),
    (
      ['--out', 'x', '--sections', 'mixing,nothing'],
      '--sections nothing: no such section; choose from ceilings',
    ),
    (['--out', 'x', '--corpus', '/nowhere'], '/nowhere: no such folder'),
  ],
)
def test_bad_input_is_one_line(arguments, says, capsys):
  with pytest.raises(SystemExit) as stopped:
    command.parse(arguments)
  assert stopped.value.code == 2
  printed = capsys.readouterr().err
  assert says in printed and printed.count('\n') == 1


def test_sections_are_run_in_the_kits_order():
  chosen = command.parse(['--out', 'x', '--sections', 'training,ceilings'])
  assert [s.name for s in chosen.sections] == ['ceilings', 'training']


@pytest.mark.slow
def test_a_run_writes_its_header_and_its_rows(tmp_path):
  ran = subprocess.run(
    [
      *(sys.executable, '-m', 'fnet_t5x.benchmarks.accelerator'),
      *('--toy', '--minutes', '3', '--sections', 'ceilings'),
      *('--out', str(tmp_path / 'out'), '--commit', 'abc'),
    ],
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert ran.returncode == 0, ran.stderr
  (path,) = (tmp_path / 'out').iterdir()
  content = json.loads(path.read_text())
  header = content['header']
  assert header['commit'] == 'abc' and header['backend'] == 'cpu'
  assert set(header['versions']) == {'jax', 'jaxlib', 'flax', 'optax', 'numpy'}
  # Not where it ran.
  assert str(tmp_path) not in path.read_text()
  assert content['ended'] == 'complete'
  copy, product = content['rows']
  assert copy['result']['bytes_per_second'] > 0
  assert product['result']['flops_per_second'] > 0
  assert 'ceilings: copy' in ran.stdout and path.name in ran.stdout


def test_a_section_without_its_corpus_is_skipped_with_a_note(tmp_path):
  ran = subprocess.run(
    [
      *(sys.executable, '-m', 'fnet_t5x.benchmarks.accelerator'),
      *('--toy', '--minutes', '3', '--sections', 'quality'),
      *('--out', str(tmp_path)),
    ],
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert ran.returncode == 0, ran.stderr
  (path,) = tmp_path.iterdir()
  content = json.loads(path.read_text())
  note = content['notes'][-1]
  assert note.startswith('quality: skipped') and '--corpus' in note
  assert content['rows'] == [] and content['ended'] == 'complete'
