"""Lock of a model directory: its holder and its release."""

import errno
import os
import re
import signal
import subprocess
import sys

import pytest
from checkout import ROOT

from fnet_t5x.runtime import directory_lock

# Another process: prints that it holds the lock, or the error, then waits.
HOLDER = """
import sys
from fnet_t5x.runtime import directory_lock
try:
  with directory_lock.held(sys.argv[1]):
    print('held', flush=True)
    sys.stdin.read()
except ValueError as error:
  print(error, flush=True)
"""


def hold(folder) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, '-c', HOLDER, str(folder)],
    cwd=ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )


def test_lock_names_its_holder_and_ends_with_the_process(tmp_path):
  first = hold(tmp_path)
  assert first.stdout.readline() == 'held\n'
  with (
    pytest.raises(ValueError, match='in use by another run') as error,
    directory_lock.held(str(tmp_path)),
  ):
    pass
  assert re.fullmatch(
    rf'MODEL_DIR {tmp_path} is in use by another run \(host [\w.-]+, process '
    rf'{first.pid}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC\): wait until '
    'it ends, stop it, or use another MODEL_DIR',
    str(error.value),
  )
  first.send_signal(signal.SIGKILL)
  first.wait()
  assert (tmp_path / directory_lock.FILE).read_text()
  with directory_lock.held(str(tmp_path)):
    second = hold(tmp_path)
    assert f'process {os.getpid()}, ' in second.communicate()[0]
  # No details of a run remain in a folder that may be shared.
  assert not (tmp_path / directory_lock.FILE).read_text()


def test_lock_ends_with_its_block(tmp_path):
  for _ in range(2):
    with (
      pytest.raises(KeyError),
      directory_lock.held(str(tmp_path)),
    ):
      raise KeyError


@pytest.mark.parametrize(
  'content',
  [
    '',
    '{"host": "a\\u001b[2J", "pid": 1, "since": "2026-01-01 00:00:00 UTC"}',
    '{"host": "a", "pid": "rm", "since": "2026-01-01 00:00:00 UTC"}',
    '{"host": "a", "pid": 1, "since": "\\u001b"}',
    '[' * 2000,
    '\x00',
  ],
)
def test_holder_that_is_no_holder_is_left_out(tmp_path, content):
  with directory_lock.held(str(tmp_path)):
    (tmp_path / directory_lock.FILE).write_text(content)
    with (
      pytest.raises(ValueError, match=r'by another run: wait'),
      directory_lock.held(str(tmp_path)),
    ):
      pass


def test_link_is_not_followed(tmp_path):
  (tmp_path / 'mine').write_text('mine')
  (tmp_path / directory_lock.FILE).symlink_to(tmp_path / 'mine')
  with pytest.raises(OSError), directory_lock.held(str(tmp_path)):
    pass
  assert (tmp_path / 'mine').read_text() == 'mine'


def test_file_system_without_locks_is_said(tmp_path, monkeypatch, capfd):
  def no_locks(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

  monkeypatch.setattr(directory_lock.fcntl, 'flock', no_locks)
  with directory_lock.held(str(tmp_path)):
    pass
  assert f'no locks in {tmp_path}' in capfd.readouterr().out


def test_object_store_has_no_lock():
  with directory_lock.held('gs://bucket/model'):
    pass
