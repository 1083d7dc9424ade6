"""Launches on TPU VMs: watching loop and worker script, on a fake cloud."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
import tpu_pods
from checkout import ROOT

from fnet_t5x.xm_launch import command, source, tpu_pod, tpu_vm

SETTINGS = command.Settings(
  run_mode='train',
  gin_files=['gin/experiments/quickstart.gin'],
  model_dir='gs://my-bucket/run',
  gin_bindings=["TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 114}"],
  tpu_type='v4-16',
  project='my-project',
  zone='us-central2-b',
  name='large',
)
FLAGS = [
  '--gin_file=gin/experiments/quickstart.gin',
  '--model_dir=gs://my-bucket/run',
  "--gin.TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 114}",
  '--tpu_type=v4-16',
  '--project=my-project',
  '--zone=us-central2-b',
  '--name=large',
]
RUN = [
  *('-m', 'fnet_t5x.train', '--multiprocess_gpu'),
  '--gin_search_paths=/gin root',
  '--gin_file=gin/experiments/quickstart.gin',
  "--gin.MODEL_DIR='gs://my-bucket/run'",
  "--gin.TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 114}",
]
FOR_LONG = 'time.sleep(60)'
START = ['ssh', 'scp', 'ssh setup', 'ssh start']


@pytest.fixture
def cloud(tmp_path, monkeypatch):
  made = tpu_pods.Cloud(tmp_path / 'cloud')
  monkeypatch.setenv('PATH', f'{made.bin}:{os.environ["PATH"]}')
  yield made
  for pid in (tmp_path / 'cloud').glob('worker_*/fnet_t5x_pod/pid'):
    kill(pid)


def kill(pid_file):
  with contextlib.suppress(ProcessLookupError):
    os.killpg(int(pid_file.read_text().split()[0]), signal.SIGKILL)


@pytest.fixture
def packed():
  return source.Source()


def make_watch(packed, folder, **changes):
  settings = dataclasses.replace(SETTINGS, **changes)
  pod = tpu_pod.Pod(settings, packed.tag, spot=True, restarts=1)
  folder.mkdir()
  tpu_pod.write_folder(pod, packed, folder)
  return tpu_vm.Watch(pod, str(folder))


@pytest.fixture
def watch(cloud, packed, tmp_path):
  return make_watch(packed, tmp_path / 'launch')


@pytest.fixture
def two_slices(cloud, packed, tmp_path):
  return make_watch(
    packed, tmp_path / 'launch', tpu_type='v5p-64', num_slices=2
  )


def wait_for(condition):
  """Waits until a run that was just started meets a condition."""
  for _ in range(200):
    if condition():
      return
    time.sleep(0.05)
  raise AssertionError('it did not happen')


@pytest.mark.slow
def test_a_preempted_run_is_started_again_and_finished(cloud, tmp_path):
  """The complete command: preempted in its first run, done in its second."""
  cloud.train(
    'first = cloud / ("ran_" + home.name)\n'
    'if not first.exists():\n'
    '  first.touch()\n'
    '  (cloud / "state").write_text("PREEMPTED")\n'
    '  sys.exit(1)\n'
  )
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'fnet_t5x.xm_launch.tpu_vm', *FLAGS, '--spot'),
      '--poll_seconds=0.3',
    ],
    env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path])},
    capture_output=True,
    text=True,
    check=False,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  assert 'is PREEMPTED: deleting it' in done.stdout
  assert 'large is done' in done.stdout
  assert 'the TPU still incurs charges' in done.stdout
  verbs = cloud.verbs()
  assert [v for v in verbs if v in ('create', 'delete')] == [
    *('create', 'delete', 'create')
  ]
  # The same command on both workers, both times.
  assert cloud.started() == [RUN] * 4
  (create,) = {tuple(c) for c in cloud.calls() if c[3] == 'create'}
  assert set(create[4:]) >= {
    'large',
    '--accelerator-type=v4-16',
    '--version=tpu-ubuntu2204-base',
    '--spot',
    '--zone=us-central2-b',
    '--project=my-project',
  }


def test_workers_are_set_up_once(cloud, watch, packed):
  cloud.train(FOR_LONG)
  assert not watch.step()
  assert cloud.verbs() == ['describe', 'create']
  assert not watch.step()
  assert cloud.verbs()[2:] == ['describe', *START]
  wait_for(lambda: len(cloud.started()) == 2)
  asked = [(words, t5x) for who, words, t5x in cloud.python() if who[-1] == '0']
  installs = [
    words for words, _ in asked if words[:3] == ['-m', 'pip', 'install']
  ]
  home = cloud.home(0)
  assert installs == [
    ['-m', 'pip', 'install', '--quiet', '--user', 'uv'],
    ['-m', 'pip', 'install', '--quiet', f'{home}/source[t5x,tpu]'],
    [
      *('-m', 'pip', 'install', '--quiet', '--no-deps'),
      f'git+https://github.com/google/airio@{command.AIRIO_COMMIT}',
      f'git+https://github.com/google-research/t5x@{command.T5X_COMMIT}',
    ],
  ]
  assert (home / 'installed').read_text().strip() == packed.tag
  assert (home / 'source/setup.py').read_text() == (
    subprocess.run(
      ['git', '-C', ROOT, 'show', f'{packed.commit}:setup.py'],
      capture_output=True,
      text=True,
      check=True,
    ).stdout
  )
  # Patched as in README.
  assert (cloud.folder / 'worker_0/jestimator/amos_helper.py').read_text() == (
    'from jax.sharding import PartitionSpec\n'
  )
  assert not watch.step()
  assert cloud.verbs()[-2:] == ['describe', 'ssh status']

  # A new watcher takes over: nothing is done twice.
  asked = len(cloud.python())
  watch.started = None
  assert not watch.step()
  assert len(cloud.python()) == asked


def test_a_completed_run_is_not_repeated(cloud, watch):
  watch.step()
  watch.step()
  wait_for(lambda: all((cloud.home(i) / 'code').exists() for i in (0, 1)))
  assert watch.step()
  watch.started = None
  watch.step()
  assert watch.step()
  assert len(cloud.started()) == 2


def test_another_run_is_left_alone(cloud, watch):
  cloud.train(FOR_LONG)
  watch.step()
  watch.step()
  wait_for(lambda: len(cloud.started()) == 2)
  other = pathlib.Path(watch.folder) / 'run.sh'
  other.write_text(other.read_text().replace('114', '115'))
  watch.started = None
  with pytest.raises(tpu_vm.GcloudError, match='another run is in progress'):
    watch.step()
  assert len(cloud.started()) == 2
  assert 'ssh stop' not in cloud.verbs()


def test_a_run_that_fails_is_repeated_and_then_given_up(cloud, watch, capsys):
  cloud.train(
    'print("it broke", flush=True); sys.exit(home.name == "worker_1")'
  )
  watch.step()
  for _ in range(2):
    watch.step()
    wait_for(lambda: all((cloud.home(i) / 'code').exists() for i in (0, 1)))
    try:
      assert not watch.step()
    except RuntimeError as error:
      assert 'large failed 2 times' in str(error)
      assert 'gcloud compute tpus tpu-vm delete large' in str(error)
      break
    assert 'ssh stop' in cloud.verbs()
  else:
    raise AssertionError('it was not given up')
  assert 'it broke' in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_run_is_a_failed_run(cloud, watch):
  cloud.train(FOR_LONG)
  watch.step()
  watch.step()
  wait_for(lambda: len(cloud.started()) == 2)
  kill(cloud.home(1) / 'pid')
  wait_for(lambda: 'failed' in watch.on_workers('status').split())
  assert watch.on_workers('status').split() == [
    'running',
    'failed',
  ]
  watch.step()
  # The worker that was waiting for the other was stopped too.
  assert watch.on_workers('status').split() == ['idle', 'idle']


@pytest.mark.parametrize(
  'text, patient',
  [
    ('There is no more capacity in the zone', True),
    ('PERMISSION_DENIED: not you', False),
    ("Quota limit 'TPUV4' has been exceeded", False),
  ],
)
def test_only_missing_capacity_is_waited_for(cloud, watch, text, patient):
  cloud.refuse('create', text)
  if patient:
    assert not watch.step()
    watch.step()
    assert cloud.verbs() == ['describe', 'create'] * 2
  else:
    with pytest.raises(tpu_vm.GcloudError, match=text[:10]):
      watch.step()


@pytest.mark.slow
def test_a_stopped_run_has_time_to_save(cloud, watch):
  cloud.train(
    'import signal\n'
    'def save(*_):\n'
    '  time.sleep(1)\n'
    '  (home / "saved").touch()\n'
    '  sys.exit(143)\n'
    'signal.signal(signal.SIGTERM, save)\n'
    '(home / "ready").touch()\n'
    'time.sleep(60)\n'
  )
  watch.step()
  watch.step()
  homes = [cloud.home(i).parent for i in (0, 1)]
  wait_for(lambda: all((home / 'ready').exists() for home in homes))
  assert watch.on_workers('stop').split() == ['stopped'] * 2
  assert all((home / 'saved').exists() for home in homes)
  assert watch.on_workers('status').split() == ['idle'] * 2


def test_transient_and_permanent_states(cloud, watch, capsys):
  for state in ('CREATING', 'REPAIRING', 'DELETING'):
    cloud.set_state(state)
    assert not watch.step()
    assert f'is {state}: waiting' in capsys.readouterr().out
  cloud.set_state('STOPPED')
  with pytest.raises(
    RuntimeError, match='large is STOPPED: start it or delete'
  ):
    watch.step()
  assert set(cloud.verbs()) == {'describe'}


def test_network_errors_are_waited_out(cloud, watch, capsys):
  cloud.refuse('describe', 'the token is no good')
  with pytest.raises(tpu_vm.GcloudError, match='no good'):
    watch.step()
  watch.step()
  cloud.refuse('describe', 'connection reset')
  assert not watch.step()
  assert 'cannot be reached' in capsys.readouterr().out
  cloud.refuse('scp', 'connection refused')
  watch.pod.restarts = 3
  assert not watch.step()
  assert 'could not start' in capsys.readouterr().out
  assert watch.started is None


CREATE_TWO = [
  *('gcloud', 'compute', 'tpus', 'queued-resources', 'create', 'large'),
  '--accelerator-type=v5p-64',
  '--runtime-version=v2-alpha-tpuv5',
  '--node-count=2',
  '--node-prefix=large',
  '--spot',
  '--project=my-project',
  '--zone=us-central2-b',
  '--quiet',
]


def test_two_slices_wait_in_the_queue_and_run_as_one(cloud, two_slices, capsys):
  watch = two_slices
  cloud.train(FOR_LONG)
  assert not watch.step()
  assert ['gcloud', *cloud.calls()[-1]] == CREATE_TWO
  for state in ('WAITING_FOR_RESOURCES', 'PROVISIONING', 'SUSPENDING'):
    cloud.set_state(state)
    assert not watch.step()
    assert f'is {state}: waiting' in capsys.readouterr().out
  cloud.set_state('ACTIVE')
  watch.step()
  # Both workers of both slices, each with the same command.
  wait_for(lambda: len(cloud.started()) == 4)
  (line,) = {tuple(words) for words in cloud.started()}
  assert line == (*RUN[:6], '--gin.NUM_SLICES=2', *RUN[6:])
  assert watch.on_workers('status').split() == ['running'] * 4

  # A slice that Cloud TPU replaces is waited for; the run starts on it again.
  cloud.set_slice_state('large-1', 'CREATING')
  assert not watch.step()
  assert 'is CREATING: waiting' in capsys.readouterr().out
  cloud.set_slice_state('large-1', None)

  # Preempted: the request is deleted with its slices, and made again.
  cloud.set_state('SUSPENDED')
  watch.step()
  ours = [words for words in cloud.calls() if words[2] == 'queued-resources']
  assert [words[3] for words in ours[-3:]] == ['describe', 'delete', 'create']
  assert '--force' in ours[-2]


def test_a_request_that_cannot_be_met_ends_the_launch(cloud, two_slices):
  cloud.set_state('FAILED')
  with pytest.raises(RuntimeError, match='large FAILED') as error:
    two_slices.step()
  assert 'queued-resources delete large --force' in str(error.value)


@pytest.mark.parametrize(
  ('changes', 'nodes'),
  [
    ({'tpu_type': 'v5p-64'}, ['large']),
    ({'tpu_type': 'v4-16', 'num_slices': 2}, ['large-0', 'large-1']),
  ],
)
def test_printed_lines_of_queued_resources(
  cloud, packed, tmp_path, changes, nodes
):
  settings = dataclasses.replace(SETTINGS, **changes)
  pod = tpu_pod.Pod(settings, packed.tag)
  assert pod.nodes == nodes
  cloud.set_state('SUSPENDED')
  plan = tpu_pod.plan(pod, packed)
  assert 'if it is SUSPENDED, delete it first' in plan
  subprocess.run(['bash', '-e', '-c', plan], cwd=tmp_path, check=True)
  wait_for(lambda: len(cloud.started()) == 2 * len(nodes))
  assert all('--multiprocess_gpu' in words for words in cloud.started())


@pytest.mark.parametrize(
  ('flags', 'create'),
  [
    (
      ['--tpu_type=v5p-64'],
      'queued-resources create large --accelerator-type=v5p-64 '
      '--runtime-version=v2-alpha-tpuv5 --node-id=large --spot ',
    ),
    (
      ['--tpu_type=v6e-16', '--num_slices=2'],
      'queued-resources create large --accelerator-type=v6e-16 '
      '--runtime-version=v2-alpha-tpuv6e --node-count=2 --node-prefix=large '
      '--spot ',
    ),
  ],
)
def test_dry_runs_of_newer_pods_and_several_slices(flags, create):
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'fnet_t5x.xm_launch.tpu_vm', *FLAGS, *flags),
      *('--spot', '--dry_run'),
    ],
    env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path])},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert f'gcloud compute tpus {create}' in done.stdout
  assert ('NUM_SLICES=2' in done.stdout) == ('node-count' in create)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'num_slices': 0}, '--num_slices=0: give a positive integer'),
    ({'tpu_type': 'v3-32', 'num_slices': 2}, 'slices of v3 cannot be joined'),
    (
      {'gin_bindings': ['NUM_SLICES=2']},
      '--gin.NUM_SLICES=2: use --num_slices',
    ),
  ],
)
def test_slices_that_cannot_be_are_one_line(changes, message):
  with pytest.raises(ValueError, match=message) as error:
    command.check(dataclasses.replace(SETTINGS, **changes))
  assert '\n' not in str(error.value)


def test_printed_lines_do_what_the_launch_does(cloud, packed, tmp_path):
  pod = tpu_pod.Pod(SETTINGS, packed.tag)
  plan = tpu_pod.plan(pod, packed)
  # The plan deletes the TPU, so there must be one that is gone.
  cloud.set_state('PREEMPTED')
  subprocess.run(['bash', '-e', '-c', plan], cwd=tmp_path, check=True)
  assert cloud.verbs() == [
    *('describe', 'delete', 'create', *START, 'describe', 'ssh status')
  ]
  wait_for(lambda: cloud.started() == [RUN] * 2)


def test_worker_script_names_its_commands(tmp_path):
  done = subprocess.run(
    ['bash', ROOT / 'xm_launch/worker.sh', 'explode'],
    env={'HOME': str(tmp_path), 'PATH': os.environ['PATH']},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 2
  assert 'setup, start, status, log, stop' in done.stderr


def test_without_gcloud_is_one_line(tmp_path, packed, monkeypatch):
  (tmp_path / 'git').symlink_to(shutil.which('git'))
  monkeypatch.setenv('PATH', str(tmp_path))
  pod = tpu_pod.Pod(SETTINGS, packed.tag)
  with pytest.raises(ValueError, match='gcloud is not installed'):
    tpu_vm.watch(pod, packed)
