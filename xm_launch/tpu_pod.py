"""Command lines that manage a TPU VM or pod, or several slices.

Slices of v5e and later, and several slices of any kind, are a queued resource:
a request that waits for capacity and then has the slices as its nodes. Their
hosts learn from Cloud TPU which slice they are, and JAX from it.

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
  """TPU slices of a run and the commands that manage them.

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

  def gcloud(self, verb: str, *words: str, group: str = 'tpu-vm') -> list[str]:
    """Returns a command line of `gcloud compute tpus`."""
    return [
      *('gcloud', 'compute', 'tpus', group, verb, *words),
      f'--project={self.settings.project}',
      f'--zone={self.settings.zone}',
      '--quiet',
    ]

  @property
  def queued(self) -> bool:
    """Whether the slices are a queued resource."""
    tpu = tpu_types.parse(self.settings.tpu_type)
    return tpu.generation.queued or self.settings.num_slices > 1

  @property
  def nodes(self) -> list[str]:
    """Names of the slices; gcloud numbers several of them."""
    name, count = self.settings.name, self.settings.num_slices
    return [name] if count == 1 else [f'{name}-{n}' for n in range(count)]

  def create(self) -> list[str]:
    tpu = tpu_types.parse(self.settings.tpu_type)
    name, count = self.settings.name, self.settings.num_slices
    version = self.runtime_version or tpu.generation.runtime_version
    words = [f'--accelerator-type={tpu.name}']
    if self.queued:
      nodes = [f'--node-id={name}']
      if count > 1:
        nodes = [f'--node-count={count}', f'--node-prefix={name}']
      words += [f'--runtime-version={version}', *nodes]
    else:
      words.append(f'--version={version}')
    if self.spot:
      words.append('--spot')
    return self._managed('create', *words)

  def describe(self) -> list[str]:
    field = 'state.state' if self.queued else 'state'
    return self._managed('describe', f'--format=value({field})')

  def describe_nodes(self) -> list[list[str]]:
    """Returns the commands that print the state of each slice."""
    return [
      self.gcloud('describe', node, '--format=value(state)')
      for node in self.nodes
    ]

  def delete(self) -> list[str]:
    # A queued resource that has slices is deleted only by force, with them.
    return self._managed('delete', *(['--force'] if self.queued else []))

  def _managed(self, verb: str, *words: str) -> list[str]:
    group = 'queued-resources' if self.queued else 'tpu-vm'
    return self.gcloud(verb, self.settings.name, *words, group=group)

  def on_workers(self, line: str) -> list[list[str]]:
    """Returns the commands that run a shell command on every worker."""
    return [
      self.gcloud('ssh', node, '--worker=all', f'--command={line}')
      for node in self.nodes
    ]

  def worker(self, *words: str) -> list[list[str]]:
    """Returns the commands that run worker.sh on every worker."""
    return self.on_workers(f'bash {HOME}/worker.sh {shlex.join(words)}')

  def set_up(self, folder: str) -> list[list[str]]:
    """Returns the commands that install everything on every worker.

    Args:
      folder: local folder with `worker.sh`, `run.sh` and the source.
    """
    variables = image.install_variables(self.settings)
    exports = ' '.join(f'{k}={shlex.quote(v)}' for k, v in variables.items())
    files = ('worker.sh', 'run.sh', f'{self.tag}.tar.gz')
    copies = [
      self.gcloud(
        'scp',
        *(f'{folder}/{name}' for name in files),
        f'{node}:{HOME}/',
        '--worker=all',
      )
      for node in self.nodes
    ]
    return [
      *self.on_workers(f'mkdir -p {HOME}'),
      *copies,
      *self.on_workers(
        f'{exports} bash {HOME}/worker.sh setup {shlex.quote(self.tag)}'
      ),
    ]

  def start(self) -> list[list[str]]:
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
  gone, ready = 'PREEMPTED or TERMINATED', 'READY'
  if pod.queued:
    gone, ready = 'SUSPENDED', 'ACTIVE'
  return '\n'.join(
    [
      '# The files for every worker',
      f'mkdir -p {folder}',
      f'{archive} >{folder}/{pod.tag}.tar.gz',
      f'cp {shlex.quote(str(WORKER_SCRIPT))} {folder}/worker.sh',
      f'cat >{folder}/run.sh <<"EOF"',
      f'{run_script(pod.settings)}EOF',
      '',
      f'# The TPU; if it is {gone}, delete it first',
      shlex.join(pod.describe()),
      shlex.join(pod.delete()),
      shlex.join(pod.create()),
      '',
      f'# Every worker, once it is {ready}',
      *map(shlex.join, pod.set_up(folder)),
      *map(shlex.join, pod.start()),
      '',
      f'# Every {pod.poll_seconds:g} s, until all workers are done; if one has '
      f'failed: stop and start, at most {pod.restarts} times',
      shlex.join(pod.describe()),
      *map(shlex.join, pod.worker('status')),
    ]
  )
