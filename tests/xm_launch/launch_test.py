"""Launches on Vertex AI: the printed plan, and XManager's real objects."""

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import sys

import pytest
from checkout import ROOT

from fnet_t5x.xm_launch import command, image, launch, source, tpu_types

MODULE = 'fnet_t5x.xm_launch.launch'
SETTINGS = command.Settings(
  run_mode='train',
  gin_files=['gin/experiments/quickstart.gin'],
  model_dir='gs://my-bucket/run',
  gin_bindings=["TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 114}"],
  tpu_type='v3-32',
  project='my-project',
  zone='europe-west4-a',
  bucket='my-bucket',
)
FLAGS = [
  '--project=my-project',
  '--zone=europe-west4-a',
  '--bucket=my-bucket',
  '--model_dir=gs://my-bucket/run',
]
# Google's libraries, and others that a laptop may lack.
CLOUD = ('xmanager', 'google.cloud', 'google.auth', 'docker', 'jax')


def run(*arguments, module=MODULE, **environment):
  """Runs a launcher without credentials; returns the completed process."""
  return subprocess.run(
    [sys.executable, '-m', module, *arguments],
    env={
      'PATH': os.environ['PATH'],
      'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path[1:]]),
      'HOME': '/nonexistent',
      **environment,
    },
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.fixture
def packed():
  return source.Source()


def modes():
  model = [
    '--gin_file=gin/models/fnet_t5_large.gin',
    '--gin_file=gin/objectives/span_corruption.gin',
    '--gin_file=gin/sources/c4.gin',
    "--gin.MIXTURE_OR_TASK_NAME='fnet_c4_span_corruption'",
    '--tfds_data_dir=gs://my-bucket/tfds',
  ]
  pretrain = ['--gin_file=gin/runs/pretrain.gin', '--gin.TRAIN_STEPS=1000000']
  return {
    'train': [*model, *pretrain],
    'eval': [*model, '--gin_file=gin/runs/eval.gin', '--checkpoint_step=9000'],
    'infer': [*model, '--gin_file=gin/runs/infer.gin', '--checkpoint_step=9'],
  }


@pytest.mark.parametrize('mode', modes())
def test_dry_run_of_the_large_hybrid_on_c4(mode):
  done = run(*FLAGS, '--dry_run', f'--run_mode={mode}', *modes()[mode])
  assert done.returncode == 0, done.stderr
  assert '"acceleratorType": "TPU_V3"' in done.stdout
  assert '"acceleratorCount": 32' in done.stdout
  line = done.stdout.splitlines()[-1]
  assert f'python -m {command.MODULES[mode]} --multiprocess_gpu' in line
  assert "MIXTURE_OR_TASK_NAME='\"'\"'fnet_c4_span_corruption" in line


STOCK = ['--gin_file=gin/experiments/stock/t5x_small.gin', '--tpu_type=v3-32']
LAUNCHERS = ['fnet_t5x.xm_launch.launch', 'fnet_t5x.xm_launch.tpu_vm']


def flags_of(module):
  return [f for f in FLAGS if 'bucket=' not in f or module.endswith('launch')]


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec('t5x') is not None, reason='T5X is there'
)
@pytest.mark.parametrize('module', LAUNCHERS)
def test_the_stock_baseline_launches_without_local_t5x(module):
  done = run(*flags_of(module), '--dry_run', *STOCK, module=module)
  assert done.returncode == 0, done.stderr
  notes = re.findall('^note: (?!hosts install).*$', done.stderr, re.M)
  assert notes == [
    'note: t5x/examples/t5/t5_1_1/small.gin cannot be read here (T5X is not '
    'importable): its macros are checked only on the hosts'
  ]
  assert '--gin_file=gin/experiments/stock/t5x_small.gin' in done.stdout
  # The readable files are checked all the same.
  done = run(
    *flags_of(module), '--dry_run', *STOCK, '--run_mode=eval', module=module
  )
  assert 'configures train, not evaluate' in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize('module', LAUNCHERS)
def test_the_stock_baseline_is_checked_with_local_t5x(module, tmp_path):
  folder = tmp_path / 't5x/examples/t5/t5_1_1'
  folder.mkdir(parents=True)
  (tmp_path / 't5x/__init__.py').write_text('raise AssertionError("imported")')
  (folder / 'small.gin').write_text("include 't5x/examples/t5/t5_1_1/b.gin'\n")
  (folder / 'b.gin').write_text('MODEL = None\nOF_T5X = %DROPOUT_RATE\n')

  def launch_with(*arguments):
    paths = [str(ROOT), str(tmp_path), *sys.path[1:]]
    return run(
      *(*flags_of(module), '--dry_run', *STOCK, *arguments),
      module=module,
      PYTHONPATH=os.pathsep.join(paths),
    )

  done = launch_with('--gin.OF_T5X=3')
  assert done.returncode == 0, done.stderr
  assert 'cannot be read here' not in done.stderr
  assert '--gin.OF_T5X=3' in done.stdout
  done = launch_with('--gin.OF_T5=3')
  assert done.returncode == 1
  assert 'did you mean OF_T5X?' in done.stderr


def test_dry_run_imports_no_cloud():
  # Google's packages add an empty `google.cloud` when Python starts.
  script = (
    'import sys; before = set(sys.modules);'
    'from fnet_t5x.xm_launch import launch;'
    f'launch.main({["launch", *FLAGS, "--dry_run", *modes()["train"]]!r});'
    f'print([m for m in {CLOUD!r} if m in set(sys.modules) - before])'
  )
  done = subprocess.run(
    [sys.executable, '-c', script],
    env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path])},
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.splitlines()[-1] == '[]'


def test_printed_lines_build_what_the_launch_builds(tmp_path, packed):
  """Runs the plan's shell lines, all but docker's."""
  lines, _, job = launch.plan(SETTINGS, packed).partition('\n\n# The job')
  (tmp_path / 'bin').mkdir()
  docker = tmp_path / 'bin/docker'
  docker.write_text('#!/bin/bash\necho "$@" >>docker_calls\n')
  docker.chmod(docker.stat().st_mode | stat.S_IXUSR)
  subprocess.run(
    ['bash', '-e', '-c', lines],
    cwd=tmp_path,
    env={**os.environ, 'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}'},
    check=True,
  )
  made = tmp_path / 'made'
  made.mkdir()
  packed.extract(tmp_path / 'files')
  image.write_context(SETTINGS, tmp_path / 'files', made)
  for name in ('Dockerfile', 'entrypoint.sh'):
    assert (tmp_path / 'context' / name).read_text() == (
      made / name
    ).read_text()
  assert names(tmp_path / 'context') == names(made)
  assert 'source/gin/experiments/quickstart.gin' in names(made)
  tag = launch.image_tag(SETTINGS, packed)
  assert (tmp_path / 'docker_calls').read_text().splitlines() == [
    f'build --tag {tag} context',
    f'push {tag}',
  ]
  assert tag in job


def names(folder):
  return {str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file()}


def test_image_installs_this_repository_and_t5x():
  text = image.dockerfile(SETTINGS)
  (install,) = [line for line in text.splitlines() if line.startswith('RUN ')]
  assert f'google-research/t5x@{command.T5X_COMMIT} ' in install
  assert f'google/airio@{command.AIRIO_COMMIT} ' in install
  assert install.endswith('/xm_launch/install.sh /source t5x,tpu')
  assert '\nCOPY source /source\n' in text


def test_tags_are_unique_to_contents(packed):
  changed = [
    {'run_mode': 'eval'},
    {'tpu_type': 'v3-8'},
    {'gin_search_paths': ['/mine']},
    {'t5x_commit': 'abcdef0'},
  ]
  tags = {
    launch.image_tag(dataclasses.replace(SETTINGS, **change), packed)
    for change in [{}, *changed]
  }
  assert len(tags) == 1 + len(changed)
  same = dataclasses.replace(SETTINGS, gin_bindings=['BATCH_SIZE=1'])
  assert launch.image_tag(same, packed) in tags


@pytest.mark.slow
@pytest.mark.parametrize(
  'arguments, message',
  [
    (FLAGS[1:], 'no Google Cloud project given'),
    (FLAGS[:1] + FLAGS[2:], 'no Google Cloud zone given'),
    (FLAGS[:2] + FLAGS[3:], 'no Google Cloud bucket given'),
    (FLAGS[:3], 'no --model_dir given'),
    ([*FLAGS, '--run_mode=serve'], 'use one of train, eval, infer'),
    ([*FLAGS, '--tpu_type=v4-256'], 'use python -m fnet_t5x.xm_launch.tpu_vm'),
    ([*FLAGS, '--gin_file=gin/none.gin'], 'in none of commit'),
    ([*FLAGS, '--gin.BATCH_SIZ=1'], 'did you mean BATCH_SIZE?'),
    ([*FLAGS, '--commit=nothing'], 'no such commit'),
    ([*FLAGS, 'stray'], 'no such argument: stray'),
    ([*FLAGS, '--tfds_data_dir=/a\nEOF\nid\n'], "--tfds_data_dir='/a\\nEOF"),
    ([*FLAGS, '--gin.BATCH_SIZE=1\nimport os'], 'a line break'),
    ([*FLAGS, '--gin.BATCH_SIZE=%BATCH_SIZE'], 'refers to itself'),
    ([*FLAGS, f'--gin.BATCH_SIZE={9000 * "("}'], 'is not a gin value'),
  ],
)
def test_bad_input_is_one_line_before_anything_starts(arguments, message):
  done = run('--gin_file=gin/experiments/quickstart.gin', *arguments)
  assert done.returncode in (1, 2)
  assert done.stdout == ''
  (line,) = re.findall(r'^error: (.*)$', done.stderr, re.M)
  assert message in line
  assert 'Traceback' not in done.stderr


@pytest.fixture(scope='module')
def xmanager():
  """XManager's modules, including the cloud's; without credentials."""
  pytest.importorskip('xmanager', reason='XManager is not installed')
  from xmanager import xm, xm_local
  from xmanager.cloud import vertex
  from xmanager.xm_local import executables

  return xm, xm_local, vertex, executables


def test_job_is_what_the_dry_run_prints(xmanager, packed):
  xm, xm_local, vertex, executables = xmanager
  from xmanager.xm import utils

  tag = launch.image_tag(SETTINGS, packed)
  job = launch.job(
    SETTINGS, executables.GoogleContainerRegistryImage('fnet_t5x', tag)
  )
  assert isinstance(job, xm.Job)
  assert isinstance(job.executor, xm_local.Vertex)
  requirements = job.executor.requirements
  assert requirements.accelerator == xm.ResourceType.TPU_V3
  assert requirements.task_requirements[xm.ResourceType.TPU_V3] == 32
  # The request that XManager's client sends to Vertex AI.
  machine = vertex.get_machine_spec(job)
  words = xm.merge_args(job.executable.args, job.args).to_list(
    utils.ARGV_ESCAPER
  )
  plan = launch.plan(SETTINGS, packed)
  printed = json.loads(plan[plan.index('\n{') : plan.index('\n}') + 2])
  (pool,) = printed['workerPoolSpecs']
  assert pool['machineSpec'] == {
    'machineType': machine['machine_type'],
    'acceleratorType': machine['accelerator_type'].name,
    'acceleratorCount': machine['accelerator_count'],
  }
  assert pool['containerSpec'] == {'imageUri': tag, 'args': words}
  assert "--gin.TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 114}" in words
  assert pool['replicaCount'] == requirements.replicas


def test_image_is_built_from_the_context_and_pushed(xmanager, tmp_path):
  xm, xm_local, _, _ = xmanager
  made = launch.packageable(tmp_path, 'gcr.io/my-project/fnet_t5x:tag')
  assert isinstance(made, xm.Packageable)
  assert isinstance(made.executable_spec, xm.Dockerfile)
  assert made.executable_spec.path == str(tmp_path)
  assert made.executable_spec.dockerfile == str(tmp_path / 'Dockerfile')
  assert isinstance(made.executor_spec, xm_local.Vertex.Spec)
  assert made.executor_spec.push_image_tag == 'gcr.io/my-project/fnet_t5x:tag'


def test_every_vertex_slice_has_a_machine(xmanager):
  _, _, vertex, executables = xmanager
  for generation in tpu_types.GENERATIONS:
    settings = dataclasses.replace(
      SETTINGS, tpu_type=f'{generation.prefix}-{generation.sizes[-1]}'
    )
    job = launch.job(
      settings, executables.GoogleContainerRegistryImage('fnet_t5x', 'tag')
    )
    if generation.vertex:
      launch.check_tpu(settings)
      spec = vertex.get_machine_spec(job)
      assert spec['accelerator_count'] == generation.sizes[-1]
    else:
      with pytest.raises(ValueError, match='XManager supports v2 and v3'):
        launch.check_tpu(settings)
      with pytest.raises(KeyError):
        vertex.get_machine_spec(job)


def test_scripts_are_shell():
  for script in (ROOT / 'xm_launch').glob('*.sh'):
    subprocess.run(['bash', '-n', script], check=True)
    if shutil.which('shellcheck'):
      subprocess.run(['shellcheck', script], check=True)
