"""Command line of a pod's hosts, through a real shell and gin's parser."""

import dataclasses
import json
import stat
import subprocess
import sys

import gin
import pytest
from checkout import ROOT

from fnet_t5x import command_line
from fnet_t5x.xm_launch import command, image

SETTINGS = command.Settings(
  run_mode='train',
  gin_files=['gin/models/fnet_t5_large.gin', 'gin/runs/pretrain.gin'],
  model_dir='gs://my-bucket/large',
)
# Bindings that a shell would change if unquoted, and the values gin reads.
VALUES = {
  'SPACES': 'two  spaces',
  'QUOTES': """a 'single' and a "double" one""",
  'BRACES': {'inputs': 512, 'targets': [1, 2], 'a b': {'c': None}},
  'DOLLAR': '$HOME ${HOME} $(id) `id`',
  'GLOB': '* ? [a-z] ~ !x #y {a,b}',
  'SLASHES': 'back\\slash \\n',
  'SEPARATORS': 'a;b & c | d > e < f',
  'EQUALS': 'a=b == c',
  'NUMBER': 1e-3,
  'UNICODE': 'naïve ∑',
}
# A program that prints its arguments.
SHOW = """#!{python}
import json, os, sys
if sys.argv[1:] == ['-m', 'fnet_t5x.gin_root']:
  print('/a folder/of gin')
else:
  print(json.dumps([sys.argv[1:], os.environ.get('FNET_T5X_ENGINE')]))
"""


def bash(tmp_path, line, *arguments):
  """Runs a line in bash, with a `python` that prints its arguments."""
  program = tmp_path / 'python'
  program.write_text(SHOW.format(python=sys.executable))
  program.chmod(program.stat().st_mode | stat.S_IXUSR)
  done = subprocess.run(
    ['bash', '-c', line, 'bash', *arguments],
    env={'PATH': f'{tmp_path}:/usr/bin:/bin', 'HOME': '/root'},
    capture_output=True,
    text=True,
    check=True,
  )
  return json.loads(done.stdout)


def with_values():
  bindings = [f'{name}={value!r}' for name, value in VALUES.items()]
  return dataclasses.replace(SETTINGS, gin_bindings=bindings)


def read_by_gin(words):
  """Returns the values of the bindings, as parsed on a host."""
  gin.clear_config()
  for word in command_line.rewrite_gin_args(words):
    if word.startswith('--gin_bindings='):
      gin.parse_config(word.removeprefix('--gin_bindings='))
  values = {
    name: gin.query_parameter(f'{name}/gin.macro.value') for name in VALUES
  }
  gin.clear_config()
  return values


def test_bindings_reach_gin_through_a_shell_unchanged(tmp_path):
  words, engine = bash(tmp_path, command.shell_line(with_values()))
  assert words[:2] == ['-m', 'fnet_t5x.train']
  assert engine == 't5x'
  assert read_by_gin(words) == VALUES


def test_bindings_reach_gin_through_a_containers_arguments(tmp_path):
  settings = with_values()
  words, _ = bash(
    tmp_path, image.entrypoint(settings), *command.arguments(settings)
  )
  assert words == bash(tmp_path, command.shell_line(settings))[0]
  assert read_by_gin(words) == VALUES


@pytest.mark.parametrize(
  'mode, module, macro, folder',
  [
    ('train', 'fnet_t5x.train', 'MODEL_DIR', ''),
    ('eval', 'fnet_t5x.eval', 'EVAL_OUTPUT_DIR', '/eval'),
    ('infer', 'fnet_t5x.infer', 'INFER_OUTPUT_DIR', '/infer'),
  ],
)
def test_command_of_each_mode(tmp_path, mode, module, macro, folder):
  settings = dataclasses.replace(
    SETTINGS,
    run_mode=mode,
    gin_search_paths=['/mine'],
    tfds_data_dir='gs://my-bucket/tfds',
    seqio_cache_dirs=['gs://my-bucket/a', 'gs://my-bucket/b'],
    checkpoint_step=None if mode == 'train' else 1000,
    gin_bindings=['BATCH_SIZE=64'],
  )
  checkpoint = (
    []
    if mode == 'train'
    else ["--gin.CHECKPOINT_PATH='gs://my-bucket/large/checkpoint_1000'"]
  )
  words, _ = bash(tmp_path, command.shell_line(settings))
  assert words == [
    '-m',
    module,
    '--multiprocess_gpu',
    '--gin_search_paths=/mine,/a folder/of gin',
    '--gin_file=gin/models/fnet_t5_large.gin',
    '--gin_file=gin/runs/pretrain.gin',
    f"--gin.{macro}='gs://my-bucket/large{folder}'",
    *checkpoint,
    '--gin.BATCH_SIZE=64',
    '--tfds_data_dir=gs://my-bucket/tfds',
    '--seqio_additional_cache_dirs=gs://my-bucket/a,gs://my-bucket/b',
  ]


def test_one_host_skips_multi_host_initialization():
  one = dataclasses.replace(SETTINGS, tpu_type='v3-8')
  assert '--multiprocess_gpu' not in command.shell_line(one)


@pytest.mark.parametrize(
  'changes, needs, message',
  [
    ({'run_mode': 'serve'}, (), 'use one of train, eval, infer'),
    ({'gin_files': []}, (), 'no --gin_file given'),
    ({'model_dir': '/data/run'}, (), 'use gs://BUCKET/FOLDER'),
    ({'model_dir': 'gs://my-bucket'}, (), 'use gs://BUCKET/FOLDER'),
    ({'tpu_type': 'v3-33'}, (), 'v3-{8,32,64'),
    ({'tpu_type': 'h100-8'}, (), 'no such TPU; known are v2-'),
    ({'name': 'My Pod'}, (), 'lower-case letters'),
    ({}, ('project',), '--project=my-project'),
    ({}, ('bucket',), '--bucket=my-bucket'),
    ({}, ('zone',), '--zone=europe-west4-a'),
    ({'zone': 'europe-west4'}, (), 'not a zone'),
    ({'project': 'a; id'}, (), 'not a project id; --project=my-project'),
    ({'bucket': 'gs://my-bucket'}, (), 'not the name of a bucket'),
    ({'t5x_commit': 'main; rm -rf /'}, (), 'not a commit'),
    ({'seqio_cache_dirs': ['gs://a,b']}, (), 'a comma'),
    # Line breaks could end the here-document of a printed script.
    ({'tfds_data_dir': '/a\nEOF\nid'}, (), "--tfds_data_dir='/a\\nEOF"),
    (
      {'seqio_cache_dirs': ['/a', '/b\r']},
      (),
      '--seqio_additional_cache_dirs=',
    ),
    ({'gin_search_paths': ['/a\n']}, (), "--gin_search_paths='/a\\n'"),
    ({'gin_files': ['a\x1b[2J.gin']}, (), "--gin_file='a\\x1b[2J.gin'"),
    ({'gin_bindings': ['A=1\nB=2']}, (), '--gin_bindings='),
    ({'model_dir': 'gs://my-bucket/run\n'}, (), '--model_dir='),
    ({'bucket': 'my-bucket\n'}, (), '--bucket='),
  ],
)
def test_bad_settings_are_one_line(changes, needs, message):
  with pytest.raises(ValueError) as error:
    command.check(dataclasses.replace(SETTINGS, **changes), needs)
  assert message in str(error.value)
  assert '\n' not in str(error.value)


def test_training_takes_no_checkpoint_step():
  with pytest.raises(ValueError, match='latest checkpoint in --model_dir'):
    command.bindings(dataclasses.replace(SETTINGS, checkpoint_step=5))


def test_readme_names_the_same_commits():
  readme = (ROOT / 'README.md').read_text()
  assert command.T5X_COMMIT in readme
  assert command.AIRIO_COMMIT in readme
