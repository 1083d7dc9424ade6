"""The command `python -m fnet_t5x.report`."""

import json
import os
import subprocess
import sys

import pytest
from checkout import ROOT

PNG = b'\x89PNG\r\n\x1a\n'


def report(folder, *arguments):
  """Runs the command in a folder."""
  return subprocess.run(
    [sys.executable, '-m', 'fnet_t5x.report', *map(str, arguments)],
    cwd=folder,
    env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path])},
    capture_output=True,
    text=True,
    check=False,
    timeout=120,
  )


def error_of(done):
  assert done.returncode == 1, done.stderr
  assert 'Traceback' not in done.stderr
  first, *_ = done.stderr.splitlines()
  return first.removeprefix('error: ')


@pytest.fixture
def run(tmp_path):
  """A run's folder, whose last line of metrics is truncated."""
  folder = tmp_path / 'runs/<b>$x$'
  folder.mkdir(parents=True)
  rows = [
    {'step': step, 'collection': 'train', 'loss': 9.0 / step}
    for step in (1, 2, 3)
  ]
  text = ''.join(json.dumps(row) + '\n' for row in rows)
  (folder / 'metrics.jsonl').write_text(text + '{"step": 4')
  return folder


@pytest.mark.slow
@pytest.mark.parametrize(
  'output, picture, page',
  [
    ((), 'report/report.png', 'report/report.html'),
    (
      ('--output=new/folder',),
      'new/folder/report.png',
      'new/folder/report.html',
    ),
    (('--output=a.png',), 'a.png', 'a.html'),
  ],
)
def test_picture_and_page(tmp_path, run, output, picture, page):
  pytest.importorskip('matplotlib')
  done = report(tmp_path, run, *output)
  assert done.returncode == 0, done.stderr
  assert (tmp_path / picture).read_bytes().startswith(PNG)
  text = (tmp_path / page).read_text()
  assert '&lt;b&gt;$x$' in text and '<b>' not in text
  assert f'wrote {picture} and {page}' in done.stdout
  assert '1 line skipped' in done.stderr


def test_no_run_named(tmp_path):
  assert error_of(report(tmp_path)).startswith('no run given')


def test_missing_matplotlib(tmp_path, run):
  # Makes the import fail, installed or not.
  hidden = (
    'import runpy, sys, importlib.util as u; find = u.find_spec;'
    "u.find_spec = lambda n, *a: None if n == 'matplotlib' else find(n, *a);"
    "sys.argv[0] = 'report';"
    "runpy.run_module('fnet_t5x.report', run_name='__main__')"
  )
  done = subprocess.run(
    [sys.executable, '-c', hidden, str(run)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert error_of(done) == (
    "report needs matplotlib: pip install 'fnet_t5x[report]'"
  )


@pytest.mark.slow
def test_bad_input_is_one_line(tmp_path, run):
  pytest.importorskip('matplotlib')
  assert 'nowhere: no such folder' in error_of(report(tmp_path, 'nowhere'))
  assert 'no metrics.jsonl in it' in error_of(report(tmp_path, tmp_path))
  (tmp_path / 'file').write_text('')
  for output in ('file/folder', 'file/a.png'):
    assert 'cannot be written' in error_of(
      report(tmp_path, run, f'--output={output}')
    )
  (run / 'metrics.jsonl').write_text('')
  assert 'no rows' in error_of(report(tmp_path, run))
