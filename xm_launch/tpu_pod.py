"""Command lines that manage a TPU VM or pod.

Pure except for `write_folder`: nothing here calls Google Cloud.
"""

import dataclasses
import pathlib
import shlex

from fnet_t5x.xm_launch import command, image, source, tpu_types

# Folder of worker.sh and all its files, in a worker's home folder.
HOME = 'fnet_t5x_pod'
WORKER_SCRIPT = pathlib.Path(__file__).with_name('worker.sh')


@dataclasses.dataclass
class Pod:
  """A TPU slice and the commands that manage it.

  Attributes:
    settings: settings of the launch.
    tag: name of the packed source, without `.tar.gz`.
    spot: whether to use a spot TPU, which may be preempted.
    runtime_version: software image; by default the generation's.
    poll_seconds: seconds between polls.
    restarts: maximum number of restarts of a run that fails.
  """

  settings: command.Settings
  tag: str
  spot: bool = False
  runtime_version: str | None = None
  poll_seconds: float = 60.0
  restarts: int = 3

  def gcloud(self, verb: str, *words: str) -> list[str]:
    """Returns a command line of `gcloud compute tpus tpu-vm`."""
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
    """Returns the command that runs a shell command on every worker."""
    return self.gcloud(
      'ssh', self.settings.name, '--worker=all', f'--command={line}'
    )

  def worker(self, *words: str) -> list[str]:
    """Returns the command that runs worker.sh on every worker."""
    return self.on_workers(f'bash {HOME}/worker.sh {shlex.join(words)}')

  def set_up(self, folder: str) -> list[list[str]]:
    """Returns the commands that install everything on every worker.

    Args:
      folder: local folder with `worker.sh`, `run.sh` and the source.
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
  """Returns the contents of run.sh, which workers run."""
  return f'exec {command.shell_line(settings)}\n'


def write_folder(pod: Pod, packed: source.Source, folder: pathlib.Path) -> None:
  """Writes the files that `Pod.set_up` copies to the workers."""
  (folder / 'worker.sh').write_text(WORKER_SCRIPT.read_text())
  (folder / 'run.sh').write_text(run_script(pod.settings))
  packed.archive(folder / f'{pod.tag}.tar.gz')


def plan(pod: Pod, packed: source.Source) -> str:
  """Returns the steps of a launch, as a readable shell script."""
  folder = 'launch'
  archive = shlex.join(packed.archive_command())
  return '\n'.join(
    [
      '# The files for every worker',
      f'mkdir -p {folder}',
      f'{archive} >{folder}/{pod.tag}.tar.gz',
      f'cp {shlex.quote(str(WORKER_SCRIPT))} {folder}/worker.sh',
      f'cat >{folder}/run.sh <<"EOF"',
      f'{run_script(pod.settings)}EOF',
      '',
      '# The TPU; if it is PREEMPTED or TERMINATED, delete it first',
      shlex.join(pod.describe()),
      shlex.join(pod.delete()),
      shlex.join(pod.create()),
      '',
      '# Every worker, once it is READY',
      *map(shlex.join, pod.set_up(folder)),
      shlex.join(pod.start()),
      '',
      f'# Every {pod.poll_seconds:g} s, until all workers are done; if one has '
      f'failed: stop and start, at most {pod.restarts} times',
      shlex.join(pod.describe()),
      shlex.join(pod.worker('status')),
    ]
  )
