"""Runs on a plain TPU VM or pod, and goes on after the pod is preempted.

  python -m fnet_t5x.xm_launch.tpu_vm --run_mode=train --tpu_type=v4-256 \\
    --gin_file=... --model_dir=gs://bucket/run --project=my-project \\
    --zone=us-central2-b --name=large --spot

Creates the TPU where there is none, installs this repository and T5X on every
worker, starts the run and watches it. A TPU that was preempted or deleted is
created again, and the same command started: it goes on from the last
checkpoint of --model_dir. Whoever stops watching may start again; what is done
is not done twice. --dry_run prints the commands and runs nothing.
"""

import pathlib
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from absl import flags

from fnet_t5x import command_line
from fnet_t5x.xm_launch import command, launch_flags, source, tpu_pod

NEEDS = ('project', 'zone')
# States of a TPU (Cloud TPU API, Node.State) that it does not come back from,
# and those that are somebody's wish.
GONE = ('PREEMPTED', 'TERMINATED')
HELD = ('STOPPING', 'STOPPED', 'HIDING', 'HIDDEN', 'UNHIDING')
# What workers say, `worker.sh status`.
WORDS = ('running', 'done', 'failed', 'idle')
# Of gcloud's errors: those that waiting mends.
NO_CAPACITY = ('no more capacity', 'insufficient capacity', 'stockout')
# A run that went on for so long did not fail at its start.
STEADY_SECONDS = 3600.0
# Seconds for what takes moments: a worker that is gone may not even refuse.
SHORT_SECONDS = 300.0


class GcloudError(RuntimeError):
  """gcloud failed; the message is the end of what it said."""


def call(words: Sequence[str], timeout: float | None = None) -> str:
  """Runs a command and returns its standard output.

  Raises:
    GcloudError: the command failed, or took longer than `timeout` seconds.
  """
  try:
    done = subprocess.run(
      words, capture_output=True, text=True, check=False, timeout=timeout
    )
  except subprocess.TimeoutExpired as error:
    raise GcloudError(f'no answer in {timeout:g} s') from error
  if done.returncode:
    raise GcloudError(' '.join((done.stderr or done.stdout).split())[-500:])
  return done.stdout


class Watch:
  """Keeps a run going on a pod until every worker is done."""

  def __init__(self, pod: tpu_pod.Pod, folder: str):
    self.pod = pod
    self.folder = folder
    self.started: float | None = None
    self.failures = 0
    self.answered = False

  def run(self) -> None:
    """Returns when the run is done.

    Raises:
      GcloudError: gcloud refuses what waiting does not mend.
      RuntimeError: the run fails by itself, again and again, or somebody
        stopped the TPU.
    """
    while not self.step():
      time.sleep(self.pod.poll_seconds)

  def step(self) -> bool:
    """Looks at the TPU and does what is next; returns whether all is done."""
    state = self._state()
    if state in HELD:
      raise RuntimeError(
        f'{self._name} is {state}: start it or delete it, then launch again'
      )
    if state != 'READY':
      self.started = None
    if state in GONE:
      self._say(f'is {state}: deleting it')
      call(self.pod.delete())
      state = None
    if state is None:
      self._create()
      return False
    if state != 'READY':
      self._say(f'is {state}: waiting')
      return False
    if self.started is None:
      self._start()
      return False
    return self._look()

  @property
  def _name(self) -> str:
    return self.pod.settings.name

  def _say(self, text: str) -> None:
    print(f'{time.strftime("%H:%M:%S")} {self._name} {text}', flush=True)

  def _state(self) -> str | None:
    """Returns the TPU's state, None where there is no such TPU."""
    try:
      state = call(self.pod.describe(), SHORT_SECONDS).strip()
    except GcloudError as error:
      if 'not_found' in str(error).lower().replace(' ', '_'):
        self.answered = True
        return None
      # A first answer tells that names and permissions are right; after it, an
      # error is the network's.
      if not self.answered:
        raise
      self._say(f'cannot be looked at: {error}')
      return 'UNKNOWN'
    self.answered = True
    return state

  def _create(self) -> None:
    self._say(f'is missing: creating a {self.pod.settings.tpu_type}')
    try:
      call(self.pod.create())
    except GcloudError as error:
      if not any(text in str(error).lower() for text in NO_CAPACITY):
        raise
      self._say(f'has to wait: {error}')

  def _start(self) -> None:
    """Sets every worker up and starts the run, or tries again later."""
    self._say('is READY: setting its workers up')
    try:
      for words in self.pod.set_up(self.folder):
        call(words)
      call(self.pod.start())
    except GcloudError as error:
      if 'another run' in str(error):
        raise
      # Taken away meanwhile, or not up yet: its state will tell.
      self._fail(f'could not start: {error}')
      return
    self.started = time.monotonic()
    self._say('started the run')

  def _look(self) -> bool:
    try:
      said = call(self.pod.worker('status'), SHORT_SECONDS).split()
    except GcloudError as error:
      self._say(f'does not answer: {error}')
      return False
    words = [word for word in said if word in WORDS]
    if words and all(word == 'done' for word in words):
      self._say('is done')
      return True
    if 'failed' in words or 'idle' in words:
      if time.monotonic() - self.started > STEADY_SECONDS:
        self.failures = 0
      self._fail('failed:\n' + self._log())
      # The other workers wait for the one that failed.
      self._stop()
      self.started = None
    return False

  def _fail(self, text: str) -> None:
    """Counts a failure; a preempted TPU's are not the run's.

    Its workers fail while it still reads READY, or a moment before.
    """
    self._say(text)
    if self._state() != 'READY':
      return
    self.failures += 1
    if self.failures > self.pod.restarts:
      raise RuntimeError(
        f'{self._name} failed {self.failures} times, see above; it is still '
        f'there, and paid for: {shlex.join(self.pod.delete())}'
      )

  def _stop(self) -> None:
    try:
      call(self.pod.worker('stop'), SHORT_SECONDS)
    except GcloudError as error:
      self._say(f'could not be stopped: {error}')

  def _log(self) -> str:
    try:
      return call(self.pod.worker('log'), SHORT_SECONDS)
    except GcloudError as error:
      return f'no log: {error}'


def watch(pod: tpu_pod.Pod, packed: source.Source) -> None:
  """Keeps the run going until it is done; says how the TPU is deleted.

  Raises:
    ValueError: gcloud is missing.
    RuntimeError: as `Watch.run`.
  """
  with tempfile.TemporaryDirectory() as folder:
    tpu_pod.write_folder(pod, packed, pathlib.Path(folder))
    try:
      Watch(pod, folder).run()
    except FileNotFoundError as error:
      raise ValueError(
        f'{error.filename} is not installed: install the Google Cloud CLI'
      ) from error
  print(f'the TPU is still paid for; delete it: {shlex.join(pod.delete())}')


def main(argv: list[str]) -> None:
  """Runs what the command line says."""
  flags.DEFINE_boolean('spot', False, 'A TPU that may be preempted.')
  flags.DEFINE_string('runtime_version', None, "The TPU VM's software image.")
  flags.DEFINE_float('poll_seconds', 60.0, 'Seconds between two looks at it.')
  flags.DEFINE_integer('restarts', 3, 'How often a run that fails is repeated.')
  launch_flags.parse(argv, __doc__)
  given = flags.FLAGS
  settings = launch_flags.settings(NEEDS)
  command.check_text('runtime_version', given.runtime_version)
  packed = launch_flags.checked_source(settings)
  pod = tpu_pod.Pod(
    settings,
    packed.tag,
    spot=given.spot,
    runtime_version=given.runtime_version,
    poll_seconds=given.poll_seconds,
    restarts=given.restarts,
  )
  if given.dry_run:
    print(tpu_pod.plan(pod, packed))
    return
  try:
    watch(pod, packed)
  except RuntimeError as error:
    sys.stderr.write(f'error: {error}\n')
    sys.exit(1)


if __name__ == '__main__':
  with command_line.one_line_errors():
    main(sys.argv)
