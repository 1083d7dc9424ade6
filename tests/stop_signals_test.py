"""Ctrl-C and SIGTERM stop after the step or at once, without a traceback."""

import os
import signal
import subprocess
import sys
import time

import pytest
from checkout import ROOT

from fnet_t5x import stop_signals

# The hash stands for a compilation or a step: C code that takes a minute, for
# which Python's own signal handlers wait.
COMMAND = """
import hashlib, sys
from fnet_t5x import stop_signals
stop_signals.end_process()
def work():
  hashlib.pbkdf2_hmac('sha256', b'', b'', 200_000_000)
def print_line(line):
  print(line, flush=True)
if sys.argv[1] == 'before':
  print_line('ready')
  work()
else:
  with stop_signals.deferred(lambda: None, print_line) as received:
    print_line('ready')
    work()
"""


class Command:
  """A process in the middle of C code."""

  def __init__(self, moment):
    self.process = subprocess.Popen(
      [sys.executable, '-c', COMMAND, moment],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    assert self.line() == 'ready'
    time.sleep(0.2)

  def line(self):
    return self.process.stdout.readline().strip()

  def send(self, signum):
    self.process.send_signal(signum)

  def end(self):
    """Returns the exit code and standard error."""
    _, errors = self.process.communicate(timeout=10)
    return self.process.returncode, errors


@pytest.fixture
def start():
  commands = []

  def start(moment):
    commands.append(Command(moment))
    return commands[-1]

  yield start
  for command in commands:
    command.process.kill()


@pytest.mark.parametrize(
  ('signum', 'line', 'code'),
  [
    (signal.SIGINT, 'interrupted\n', 130),
    (signal.SIGTERM, 'stopped by SIGTERM\n', 143),
  ],
)
def test_before_training_a_signal_ends_the_process(start, signum, line, code):
  command = start('before')
  command.send(signum)
  assert command.end() == (code, line)


@pytest.mark.parametrize('pause', [0.0, 0.02, 0.5])
def test_second_ctrl_c_ends_the_process_at_once(start, pause):
  command = start('deferred')
  command.send(signal.SIGINT)
  line = command.line()
  assert line.startswith('stopping after ') and 'Ctrl-C again' in line
  time.sleep(pause)
  assert command.process.poll() is None
  command.send(signal.SIGINT)
  code, errors = command.end()
  assert code == 130
  assert 'the same command resumes' in errors and errors.count('\n') == 1


def test_second_sigterm_changes_nothing(start):
  command = start('deferred')
  command.send(signal.SIGTERM)
  assert command.line().startswith('SIGTERM: stopping after ')
  command.send(signal.SIGTERM)
  time.sleep(0.3)
  assert command.process.poll() is None
  command.send(signal.SIGINT)
  assert command.end()[0] == 130


@pytest.mark.slow
def test_a_callers_handlers_are_restored():
  before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
  stopped, lines = [], []
  with stop_signals.deferred(
    lambda: stopped.append(True), lines.append
  ) as received:
    assert received.signal is None and received.exit_code == 0
    os.kill(os.getpid(), signal.SIGTERM)
    assert stopped and received.signal == signal.SIGTERM
    assert received.exit_code == 143
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
      time.sleep(10)
  after = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
  assert after == before
  (line,) = lines
  assert line.startswith('SIGTERM: stopping after ')
