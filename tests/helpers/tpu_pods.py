"""A fake cloud for tests: a `gcloud` whose TPU workers are local folders.

All arguments of gcloud are recorded. `ssh` and `scp` reach the two workers of a
slice, which are home folders; their commands really run, in bash. Their Python
is a program that records its arguments. Several slices are numbered.
"""

import json
import pathlib
import shutil
import stat
import sys

GCLOUD = """#!{python} -IS
import json, os, pathlib, shutil, subprocess, sys
cloud = pathlib.Path({cloud!r})
words = sys.argv[1:]
with (cloud / 'calls.jsonl').open('a') as f:
  f.write(json.dumps(words) + '\\n')
assert words[:2] == ['compute', 'tpus'], words
queued = words[2] == 'queued-resources'
assert queued or words[2] == 'tpu-vm', words
verb, *rest = words[3:]
options = dict(w[2:].partition('=')[::2] for w in rest if w.startswith('--'))
plain = [w for w in rest if not w.startswith('--')]
assert 'quiet' in options and options['project'] and options['zone'], words
def workers_of(node):
  first = 2 * nodes.read_text().splitlines().index(node)
  return [cloud / ('worker_%d' % n) for n in (first, first + 1)]
refusal = cloud / ('refuse_' + verb)
if refusal.exists():
  text = refusal.read_text()
  refusal.unlink()
  sys.exit('ERROR: (gcloud.compute.tpus.tpu-vm.%s) %s' % (verb, text))
state = cloud / 'state'
nodes = cloud / 'nodes'
if verb == 'create':
  made = [plain[0]]
  if queued:
    assert 'runtime-version' in options, words
    made = [options.get('node-id')]
    if 'node-count' in options:
      assert 'node-id' not in options, words
      prefix = options['node-prefix']
      made = [prefix + '-%d' % n for n in range(int(options['node-count']))]
  nodes.write_text('\\n'.join(made))
  for number in range(2 * len(made)):
    worker = cloud / ('worker_%d' % number)
    shutil.rmtree(worker, ignore_errors=True)
    worker.mkdir()
  state.write_text('ACTIVE' if queued else 'READY')
  sys.exit()
if not state.exists():
  sys.exit('ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource')
if verb == 'describe':
  field = 'state.state' if queued else 'state'
  assert options['format'] == 'value(%s)' % field, words
  lost = cloud / ('state_' + plain[0])
  said = lost.read_text() if lost.exists() else state.read_text()
  print(said if queued else said.replace('ACTIVE', 'READY'))
elif verb == 'delete':
  assert not queued or 'force' in options, words
  state.unlink()
elif queued or state.read_text() not in ('READY', 'ACTIVE'):
  sys.exit('ERROR: the TPU is ' + state.read_text())
elif verb == 'scp':
  *files, target = plain
  workers = workers_of(target.partition(':')[0])
  for worker in workers:
    for name in files:
      shutil.copy(name, worker / target.partition(':')[2])
elif verb == 'ssh':
  assert options['worker'] == 'all', words
  workers = workers_of(plain[0])
  codes = [
    subprocess.run(
      ['bash', '-c', options['command']],
      cwd=worker,
      env={{'HOME': str(worker), 'PATH': os.environ['PATH']}},
    ).returncode
    for worker in workers
  ]
  sys.exit(max(codes))
else:
  sys.exit('no such verb: ' + verb)
"""
PYTHON = """#!{python} -IS
import json, os, pathlib, sys, time
cloud, home = pathlib.Path({cloud!r}), pathlib.Path(os.environ['HOME'])
words = sys.argv[1:]
with (cloud / 'python.jsonl').open('a') as f:
  f.write(json.dumps([home.name, words, os.environ.get('T5X_SOURCE')]) + '\\n')
if words[:3] == ['-m', 'uv', 'venv']:
  made = pathlib.Path(words[-1]) / 'bin'
  made.mkdir(parents=True)
  (made / 'python').write_text(pathlib.Path(__file__).read_text())
  (made / 'python').chmod(0o755)
elif words == ['-m', 'fnet_t5x.gin_root']:
  print('/gin root')
elif words[0] == '-c' and 'find_spec("jestimator")' in words[1]:
  folder = home / 'jestimator'
  folder.mkdir(exist_ok=True)
  (folder / 'amos_helper.py').write_text(
    'from jax.experimental.pjit import PartitionSpec\\n')
  print(folder)
elif words[:2] == ['-m', 'fnet_t5x.train']:
  exec((cloud / 'train.py').read_text())
"""


class Cloud:
  """The folder of a fake cloud, and the calls it received."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.bin = folder / 'bin'
    self.bin.mkdir(parents=True)
    for name, text in (('gcloud', GCLOUD), ('python3', PYTHON)):
      path = self.bin / name
      path.write_text(text.format(python=sys.executable, cloud=str(folder)))
      path.chmod(path.stat().st_mode | stat.S_IXUSR)
    self.train('')

  def train(self, script: str) -> None:
    """Sets what `python -m fnet_t5x.train` does on a worker from now on."""
    (self.folder / 'train.py').write_text(script)

  def set_state(self, state: str) -> None:
    (self.folder / 'state').write_text(state)

  def set_slice_state(self, name: str, state: str | None) -> None:
    """Sets the state of a slice; None for that of the whole."""
    path = self.folder / f'state_{name}'
    if state is None:
      path.unlink()
    else:
      path.write_text(state)

  def refuse(self, verb: str, text: str) -> None:
    """Makes the next call of a verb fail."""
    (self.folder / f'refuse_{verb}').write_text(text)

  def calls(self) -> list[list[str]]:
    return self._lines('calls.jsonl')

  def verbs(self) -> list[str]:
    """Returns the verbs in order, `ssh` with the command it runs."""
    said = []
    for words in self.calls():
      (line,) = [w for w in words if w.startswith('--command=')] or ['']
      command = line.rpartition('/worker.sh ')[2] if 'worker.sh' in line else ''
      said.append(' '.join([words[3], *command.split()[:1]]))
    return said

  def python(self) -> list[list]:
    """Returns the calls of Python: worker, arguments and T5X_SOURCE."""
    return self._lines('python.jsonl')

  def started(self) -> list[list[str]]:
    """Returns the arguments of every start of the run, on all workers."""
    return [w for _, w, _ in self.python() if w[:2] == ['-m', 'fnet_t5x.train']]

  def home(self, worker: int) -> pathlib.Path:
    return self.folder / f'worker_{worker}/fnet_t5x_pod'

  def _lines(self, name: str) -> list:
    path = self.folder / name
    if not path.exists():
      return []
    return [json.loads(line) for line in path.read_text().splitlines()]

  def forget(self) -> None:
    for name in ('calls.jsonl', 'python.jsonl'):
      (self.folder / name).unlink(missing_ok=True)
    for worker in self.folder.glob('worker_*'):
      shutil.rmtree(worker)
    (self.folder / 'state').unlink(missing_ok=True)
