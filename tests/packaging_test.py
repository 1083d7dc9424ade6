"""The wheel: one top-level name, every gin file, and gin-config's `gin`."""

import os
import pathlib
import subprocess
import sys
import zipfile

import pytest
from checkout import ROOT


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> pathlib.Path:
  """The wheel of this checkout, built offline."""
  folder = tmp_path_factory.mktemp('wheel')
  # From a copy of what is tracked: setuptools leaves a build/ where it builds.
  source = folder / 'source'
  subprocess.run(
    ['git', 'checkout-index', '--all', f'--prefix={source}/'],
    cwd=ROOT,
    check=True,
  )
  pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
  subprocess.run(
    [
      *pip,
      'wheel',
      '--no-build-isolation',
      '--no-deps',
      f'--wheel-dir={folder}',
      source,
    ],
    check=True,
  )
  (path,) = folder.glob('*.whl')
  return path


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory) -> pathlib.Path:
  """A folder with the wheel's files, as in an environment."""
  folder = tmp_path_factory.mktemp('site')
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(folder)
  return folder


def run(installed, cwd, *arguments) -> str:
  """Runs Python on the wheel's files, in a folder outside the checkout."""
  result = subprocess.run(
    [sys.executable, *arguments],
    cwd=cwd,
    env={**os.environ, 'PYTHONPATH': str(installed)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  return result.stdout.strip()


def test_wheel_holds_one_name_and_all_gin_files(wheel):
  names = zipfile.ZipFile(wheel).namelist()
  tops = {name.split('/')[0] for name in names}
  assert {top for top in tops if not top.endswith('.dist-info')} == {'fnet_t5x'}
  gin_files = {
    str(path.relative_to(ROOT)) for path in (ROOT / 'gin').rglob('*.gin')
  }
  assert gin_files
  assert {
    name.removeprefix('fnet_t5x/') for name in names if name.endswith('.gin')
  } == gin_files
  assert 'fnet_t5x/tasks/sotu.py' in names
  assert 'fnet_t5x/xm_launch/worker.sh' in names
  # Copied to exported folders.
  code = 'fnet_t5x/convert/hybrid_torch/modeling_fnet_t5.py'
  assert names.count(code) == 1
  assert 'fnet_t5x/serving/loader.py' in names
  assert not any(name.endswith('_test.py') for name in names)
  assert 'fnet_t5x/gin/__init__.py' not in names


def test_wheel_leaves_gin_config_alone(installed, tmp_path):
  script = (
    'import gin, fnet_t5x, fnet_t5x.tasks; print(gin.__file__);'
    'print(fnet_t5x.__file__); print(fnet_t5x.tasks.__file__);'
    'print(callable(gin.parse_config))'
  )
  gin_file, *ours, parses = run(installed, tmp_path, '-c', script).splitlines()
  assert not gin_file.startswith(str(installed))
  assert parses == 'True'
  assert all(path.startswith(str(installed)) for path in ours)


def test_wheel_says_where_its_gin_files_are(installed, tmp_path):
  root = pathlib.Path(run(installed, tmp_path, '-m', 'fnet_t5x.gin_root'))
  assert root == installed / 'fnet_t5x'
  assert (root / 'gin/experiments/quickstart.gin').is_file()


def test_wheel_launches_nothing_itself(installed, tmp_path):
  """Hosts install a commit of the checkout, and a wheel has no commit."""
  script = (
    'from fnet_t5x.xm_launch import source\n'
    'try: source.Source()\n'
    'except ValueError as error: print(error)'
  )
  said = run(installed, tmp_path, '-c', script)
  assert 'launch from a clone of the repository' in said


def test_importing_the_package_imports_neither_jax_nor_tensorflow(
  installed, tmp_path
):
  script = (
    'import sys, fnet_t5x;'
    'print([m for m in ("jax", "tensorflow", "seqio") if m in sys.modules])'
  )
  assert run(installed, tmp_path, '-c', script) == '[]'


@pytest.mark.slow
def test_wheel_trains_from_another_folder(installed, tmp_path):
  bindings = {
    'MODEL_DIR': str(tmp_path / 'run'),
    'TRAIN_STEPS': 1,
    'EVAL_STEPS': 1,
    'BATCH_SIZE': 8,
    'TASK_FEATURE_LENGTHS': {'inputs': 16, 'targets': 16},
    'VOCAB_SIZE': 384,
    'EMBED_DIM': 8,
    'MLP_DIM': 16,
    'vocabularies.default_vocabulary.vocab_size': 270,
  }
  output = run(
    installed,
    tmp_path,
    *('-m', 'fnet_t5x.train'),
    '--gin_file=gin/experiments/quickstart.gin',
    *(f'--gin.{name}={value!r}' for name, value in bindings.items()),
  )
  assert 'step 1/1  loss' in output
  assert (tmp_path / 'run/checkpoint_1/state').is_dir()
