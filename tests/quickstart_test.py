"""Signals to the quickstart and its training process."""

import os
import signal
import subprocess
import sys

import pytest
from checkout import ROOT


@pytest.mark.parametrize(
  ('whole_group', 'signum', 'line', 'code'),
  [
    # A terminal sends Ctrl-C to both processes; `kill` signals one.
    (True, signal.SIGINT, 'interrupted', 130),
    (False, signal.SIGTERM, 'stopped by SIGTERM', 143),
  ],
)
def test_signal_is_one_line(tmp_path, whole_group, signum, line, code):
  process = subprocess.Popen(
    [sys.executable, '-m', 'fnet_t5x.quickstart'],
    cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  )
  try:
    assert process.stdout.readline() == 'engine: runtime\n'
    if whole_group:
      os.killpg(process.pid, signum)
    else:
      process.send_signal(signum)
    said, _ = process.communicate(timeout=20)
  finally:
    if process.poll() is None:
      os.killpg(process.pid, signal.SIGKILL)
  assert process.returncode == code
  assert [x for x in said.splitlines() if not x.endswith('...')] == [line]
