"""Launcher of runs on TPU VMs, pods and several slices, surviving preemption.

  python -m fnet_t5x.xm_launch.tpu_vm --run_mode=train --tpu_type=v4-256 \\
    --gin_file=... --model_dir=gs://bucket/run --project=my-project \\
    --zone=us-central2-b --name=large --spot

Creates the TPU if there is none, installs this repository and T5X on every
worker, starts the run and watches it. If the TPU is preempted or deleted, it is
created again and the same command restarted, which resumes from the latest
checkpoint in --model_dir. The launcher itself may be stopped and started again
at any time: completed steps are not repeated. With --dry_run it only prints the
commands. With --num_slices=2 the run has two slices of --tpu_type, v4 or later.
"""

import concurrent.futures
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
# TPU states (Cloud TPU API, Node.State, and QueuedResourceState.State) that are
# final, and those that a user has requested.
GONE = ('PREEMPTED', 'TERMINATED', 'SUSPENDED')
HELD = ('STOPPING', 'STOPPED', 'HIDING', 'HIDDEN', 'UNHIDING')
# Output of `worker.sh status`.
WORDS = ('running', 'done', 'failed', 'idle')
# gcloud errors that are resolved by waiting.
NO_CAPACITY = ('no more capacity', 'insufficient capacity', 'stockout')
# After this long, a failure resets the count of failures.
STEADY_SECONDS = 3600.0
# Timeout of quick commands: a preempted worker may never answer.
SHORT_SECONDS = 300.0


class GcloudError(RuntimeError):
  """gcloud failed; the message is the end of its output."""


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


def _is_missing(error: GcloudError) -> bool:
  return 'not_found' in str(error).lower().replace(' ', '_')


class Watch:
  """Keeps a run going on a pod until every worker is done."""

  def __init__(self, pod: tpu_pod.Pod, folder: str):
    self.pod = pod
    self.folder = folder
    self.started: float | None = None
    self.failures = 0
    self.answered = False

  def run(self) -> None:
    """Watches the run until it is done.

    Raises:
      GcloudError: gcloud failed with a permanent error.
      RuntimeError: the run keeps failing, or a user stopped the TPU.
    """
    while not self.step():
      time.sleep(self.pod.poll_seconds)

  def step(self) -> bool:
    """Polls the TPU and takes the next action; returns whether all is done."""
    state = self._state()
    if state in HELD:
      raise RuntimeError(
        f'{self._name} is {state}: start it or delete it, then launch again'
      )
    if state == 'FAILED':
      # Capacity is waited for in the queue, so the request itself is at fault.
      raise RuntimeError(
        f'{self._name} FAILED: the request cannot be met; see gcloud compute '
        f'tpus queued-resources describe, then {shlex.join(self.pod.delete())}'
      )
    if state != 'READY':
      self.started = None
    if state in GONE:
      self._print_line(f'is {state}: deleting it')
      call(self.pod.delete())
      state = None
    if state is None:
      self._create()
      return False
    if state != 'READY':
      self._print_line(f'is {state}: waiting')
      return False
    if self.started is None:
      self._start()
      return False
    return self._poll_workers()

  @property
  def _name(self) -> str:
    return self.pod.settings.name

  def _print_line(self, text: str) -> None:
    print(f'{time.strftime("%H:%M:%S")} {self._name} {text}', flush=True)

  def _state(self) -> str | None:
    """Returns the TPU's state, or None if there is no such TPU.

    Of a queued resource that has its slices, it is the state of the slices: of
    one that is not READY, if there is one.
    """
    try:
      state = call(self.pod.describe(), SHORT_SECONDS).strip()
      if state == 'ACTIVE':
        states = map(self._slice_state, self.pod.describe_nodes())
        state = next((s for s in states if s != 'READY'), 'READY')
    except GcloudError as error:
      if _is_missing(error):
        self.answered = True
        return None
      # After a first answer, names and permissions are known to be right, and
      # errors are taken for network problems.
      if not self.answered:
        raise
      self._print_line(f'cannot be reached: {error}')
      return 'UNKNOWN'
    self.answered = True
    return state

  def _slice_state(self, describe: list[str]) -> str:
    try:
      return call(describe, SHORT_SECONDS).strip()
    except GcloudError as error:
      if not _is_missing(error):
        raise
      # Cloud TPU replaces a slice of several that it has lost.
      return 'CREATING'

  def _create(self) -> None:
    settings = self.pod.settings
    count = '' if settings.num_slices == 1 else f'{settings.num_slices} x '
    self._print_line(f'does not exist: creating {count}{settings.tpu_type}')
    try:
      call(self.pod.create())
    except GcloudError as error:
      if not any(text in str(error).lower() for text in NO_CAPACITY):
        raise
      self._print_line(f'is waiting for capacity: {error}')

  def _start(self) -> None:
    """Sets up all workers and starts the run, or tries again later."""
    self._print_line('is READY: setting up its workers')
    try:
      for words in self.pod.set_up(self.folder):
        call(words)
      self.on_workers('start')
    except GcloudError as error:
      if 'another run' in str(error):
        raise
      # Preempted in the meantime, or not up yet: check its state.
      self._fail(f'could not start: {error}')
      return
    self.started = time.monotonic()
    self._print_line('started the run')

  def _poll_workers(self) -> bool:
    try:
      said = self.on_workers('status', SHORT_SECONDS).split()
    except GcloudError as error:
      self._print_line(f'does not answer: {error}')
      return False
    words = [word for word in said if word in WORDS]
    if words and all(word == 'done' for word in words):
      self._print_line('is done')
      return True
    if 'failed' in words or 'idle' in words:
      if time.monotonic() - self.started > STEADY_SECONDS:
        self.failures = 0
      self._fail('failed:\n' + self._log())
      # The other workers are waiting for the one that failed.
      self._stop()
      self.started = None
    return False

  def _fail(self, text: str) -> None:
    """Counts a failure, unless the TPU has been preempted.

    Workers of a preempted TPU may fail shortly before its state changes.
    """
    self._print_line(text)
    if self._state() != 'READY':
      return
    self.failures += 1
    if self.failures > self.pod.restarts:
      raise RuntimeError(
        f'{self._name} failed {self.failures} times, see above; the TPU still '
        f'incurs charges; to delete it: {shlex.join(self.pod.delete())}'
      )

  def on_workers(self, word: str, timeout: float | None = None) -> str:
    """Returns the output of a command of worker.sh, on all slices at once."""
    commands = self.pod.worker(word)
    with concurrent.futures.ThreadPoolExecutor(len(commands)) as pool:
      return ''.join(pool.map(lambda words: call(words, timeout), commands))

  def _stop(self) -> None:
    try:
      self.on_workers('stop', SHORT_SECONDS)
    except GcloudError as error:
      self._print_line(f'could not be stopped: {error}')

  def _log(self) -> str:
    try:
      return self.on_workers('log', SHORT_SECONDS)
    except GcloudError as error:
      return f'no log: {error}'


def watch(pod: tpu_pod.Pod, packed: source.Source) -> None:
  """Keeps the run going until it is done; prints how to delete the TPU.

  Raises:
    ValueError: gcloud is not installed.
    RuntimeError: see `Watch.run`.
  """
  with tempfile.TemporaryDirectory() as folder:
    tpu_pod.write_folder(pod, packed, pathlib.Path(folder))
    try:
      Watch(pod, folder).run()
    except FileNotFoundError as error:
      raise ValueError(
        f'{error.filename} is not installed: install the Google Cloud CLI'
      ) from error
  delete = shlex.join(pod.delete())
  print(f'the TPU still incurs charges; to delete it: {delete}')


def main(argv: list[str]) -> None:
  """Launches and watches the run given on the command line."""
  flags.DEFINE_boolean('spot', False, 'Use a spot TPU, which may be preempted.')
  flags.DEFINE_integer('num_slices', 1, 'Number of slices of --tpu_type.')
  flags.DEFINE_string('runtime_version', None, 'Software image of the TPU VM.')
  flags.DEFINE_float('poll_seconds', 60.0, 'Seconds between polls.')
  flags.DEFINE_integer('restarts', 3, 'Maximum restarts of a run that fails.')
  launch_flags.parse(argv, __doc__)
  given = flags.FLAGS
  settings = launch_flags.settings(NEEDS, num_slices=given.num_slices)
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
