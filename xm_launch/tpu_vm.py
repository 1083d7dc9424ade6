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

import dataclasses
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from absl import flags

from fnet_t5x import command_line
from fnet_t5x.xm_launch import command, image, launch_flags, source, tpu_types

NEEDS = ('project', 'zone')
# States of a TPU (Cloud TPU API, Node.State) that it does not come back from,
# and those that are somebody's wish.
GONE = ('PREEMPTED', 'TERMINATED')
HELD = ('STOPPING', 'STOPPED', 'HIDING', 'HIDDEN', 'UNHIDING')
# What workers say, `worker.sh status`.
WORDS = ('running', 'done', 'failed', 'idle')
# Of gcloud's errors: those that waiting mends.
NO_CAPACITY = ('no more capacity', 'insufficient capacity', 'stockout')
# Of a worker, in its home folder; worker.sh keeps all it has there.
HOME = 'fnet_t5x_pod'
WORKER_SCRIPT = pathlib.Path(__file__).with_name('worker.sh')
# A run that went on for so long did not fail at its start.
STEADY_SECONDS = 3600.0
# Seconds for what takes moments: a worker that is gone may not even refuse.
SHORT_SECONDS = 300.0


class GcloudError(RuntimeError):
  """gcloud failed; the message is the end of what it said."""


@dataclasses.dataclass
class Pod:
  """A TPU and what is done to it.

  Attributes:
    settings: the run's.
    tag: the name of the packed source, without `.tar.gz`.
    spot: whether the TPU is one that may be preempted.
    runtime_version: its software image; the generation's where None.
    poll_seconds: between two looks at it.
    restarts: how often a run that fails by itself is started again.
  """

  settings: command.Settings
  tag: str
  spot: bool = False
  runtime_version: str | None = None
  poll_seconds: float = 60.0
  restarts: int = 3

  def gcloud(self, verb: str, *words: str) -> list[str]:
    """Returns the command line of a verb of `gcloud compute tpus tpu-vm`."""
    return [
      *('gcloud', 'compute', 'tpus', 'tpu-vm', verb, *words),
      f'--project={self.settings.project}',
      f'--zone={self.settings.zone}',
      '--quiet',
    ]

  def create(self) -> list[str]:
    tpu = tpu_types.parse(self.settings.tpu_type)
    version = self.runtime_version or tpu.generation.runtime_version
    words = [f'--accelerator-type={tpu.name}', f'--version={version}']
    if self.spot:
      words.append('--spot')
    return self.gcloud('create', self.settings.name, *words)

  def describe(self) -> list[str]:
    return self.gcloud('describe', self.settings.name, '--format=value(state)')

  def delete(self) -> list[str]:
    return self.gcloud('delete', self.settings.name)

  def on_workers(self, line: str) -> list[str]:
    """Returns the command that runs a shell's line on every worker."""
    return self.gcloud(
      'ssh', self.settings.name, '--worker=all', f'--command={line}'
    )

  def worker(self, *words: str) -> list[str]:
    """Returns the command that runs worker.sh on every worker."""
    return self.on_workers(f'bash {HOME}/worker.sh {shlex.join(words)}')

  def set_up(self, folder: str) -> list[list[str]]:
    """Returns the commands that install everything on every worker.

    Args:
      folder: of this machine, with `worker.sh`, `run.sh` and the source.
    """
    variables = image.install_variables(self.settings)
    exports = ' '.join(f'{k}={shlex.quote(v)}' for k, v in variables.items())
    files = ('worker.sh', 'run.sh', f'{self.tag}.tar.gz')
    return [
      self.on_workers(f'mkdir -p {HOME}'),
      self.gcloud(
        'scp',
        *(f'{folder}/{name}' for name in files),
        f'{self.settings.name}:{HOME}/',
        '--worker=all',
      ),
      self.on_workers(
        f'{exports} bash {HOME}/worker.sh setup {shlex.quote(self.tag)}'
      ),
    ]

  def start(self) -> list[str]:
    return self.worker('start')


def run_script(settings: command.Settings) -> str:
  """Returns run.sh: what a worker starts."""
  return f'exec {command.shell_line(settings)}\n'


def write_folder(pod: Pod, packed: source.Source, folder: pathlib.Path) -> None:
  """Writes what `Pod.set_up` copies to the workers."""
  (folder / 'worker.sh').write_text(WORKER_SCRIPT.read_text())
  (folder / 'run.sh').write_text(run_script(pod.settings))
  packed.archive(folder / f'{pod.tag}.tar.gz')


def plan(pod: Pod, packed: source.Source) -> str:
  """Returns what a launch runs, for a reader and for a shell."""
  folder = 'launch'
  archive = shlex.join(packed.archive_command())
  return '\n'.join(
    [
      '# What every worker gets',
      f'mkdir -p {folder}',
      f'{archive} >{folder}/{pod.tag}.tar.gz',
      f'cp {shlex.quote(str(WORKER_SCRIPT))} {folder}/worker.sh',
      f'cat >{folder}/run.sh <<"EOF"',
      f'{run_script(pod.settings)}EOF',
      '',
      '# The TPU; where it is PREEMPTED or TERMINATED: delete it first',
      shlex.join(pod.describe()),
      shlex.join(pod.delete()),
      shlex.join(pod.create()),
      '',
      '# Every worker, once it is READY',
      *map(shlex.join, pod.set_up(folder)),
      shlex.join(pod.start()),
      '',
      f'# Every {pod.poll_seconds:g} s, until every worker says done; failed: '
      f'stop and start, {pod.restarts} times',
      shlex.join(pod.describe()),
      shlex.join(pod.worker('status')),
    ]
  )


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

  def __init__(self, pod: Pod, folder: str):
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


def watch(pod: Pod, packed: source.Source) -> None:
  """Keeps the run going until it is done; says how the TPU is deleted.

  Raises:
    ValueError: gcloud is missing.
    RuntimeError: as `Watch.run`.
  """
  with tempfile.TemporaryDirectory() as folder:
    write_folder(pod, packed, pathlib.Path(folder))
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
  launch_flags.parse(argv)
  given = flags.FLAGS
  settings = launch_flags.settings(NEEDS)
  packed = launch_flags.checked_source(settings)
  pod = Pod(
    settings,
    packed.tag,
    spot=given.spot,
    runtime_version=given.runtime_version,
    poll_seconds=given.poll_seconds,
    restarts=given.restarts,
  )
  if given.dry_run:
    print(plan(pod, packed))
    return
  try:
    watch(pod, packed)
  except RuntimeError as error:
    sys.stderr.write(f'error: {error}\n')
    sys.exit(1)


if __name__ == '__main__':
  with command_line.one_line_errors():
    main(sys.argv)
