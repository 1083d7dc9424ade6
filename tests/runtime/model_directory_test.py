"""Model directories: finding, configuring, and no untrusted code."""

import os
import re
import sys

import bad_input_test
import gin
import gin_commands
import pytest
import small_runs

from fnet_t5x.runtime import checkpoints, model_directory, text_generation
from fnet_t5x.runtime import train as train_lib

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """Returns the folder of a run of one step, with checkpoints 0 and 1."""
  folder = tmp_path_factory.mktemp('trained')
  gin_file = folder / 'run.gin'
  gin_file.write_text(bad_input_test.RUN)
  small_runs.register()
  with gin_commands.of_main(train_lib.train):
    gin.clear_config()
    bad_input_test.train(gin_file, folder / 'model', 'SAVE_PERIOD = 1')
    gin.clear_config()
  return folder / 'model'


def saved(tmp_path, text, steps=(100, 200)):
  """Creates a model directory with a configuration and empty checkpoints."""
  for step in steps:
    (tmp_path / f'checkpoint_{step}').mkdir()
  (tmp_path / 'config.gin').write_text(text)
  return tmp_path


def test_last_checkpoint_of_a_run(trained, monkeypatch):
  found = model_directory.locate(trained)
  assert found == model_directory.ModelDirectory(
    folder=str(trained),
    step=1,
    checkpoint=f'{trained}/checkpoint_1',
    config_file=f'{trained}/config.gin',
    vocabulary_file=None,
  )
  assert model_directory.locate(f'{trained}/checkpoint_1/') == found
  assert model_directory.locate(trained, 1) == found
  assert model_directory.locate(trained, 0).checkpoint.endswith('checkpoint_0')
  monkeypatch.setenv('HOME', str(trained.parent))
  assert model_directory.locate('~/model') == found
  monkeypatch.chdir(trained)
  assert model_directory.locate('checkpoint_1').config_file == './config.gin'


def test_steps_are_those_that_orbax_finds(trained, tmp_path):
  """Incomplete checkpoints of a stopped run do not count."""
  assert model_directory._steps(str(trained)) == checkpoints.steps(str(trained))
  folder = saved(tmp_path, '')
  half = 'checkpoint_300.orbax-checkpoint-tmp'
  (folder / half).mkdir()
  (folder / 'checkpoint_9').write_text('')
  assert model_directory._steps(str(folder)) == [100, 200]
  assert checkpoints.steps(str(folder)) == [100, 200]


def test_remote_folders_are_found_too(tmp_path, monkeypatch):
  """Uses TensorFlow's in-memory file system, as a remote one."""
  import tensorflow as tf

  tf.io.gfile.makedirs('ram://model/checkpoint_5')
  for name in ('config.gin', 'vocabulary.model'):
    with tf.io.gfile.GFile(f'ram://model/{name}', 'w') as f:
      f.write('from __gin__ import dynamic_registration\nA = 1\n')
  monkeypatch.setattr(checkpoints, 'steps', lambda folder: [5])
  found = model_directory.locate('ram://model')
  assert found.vocabulary_file == 'ram://model/vocabulary.model'
  assert model_directory.read_config(found).macros == {'A': 1}


@pytest.mark.parametrize(
  ('path', 'step', 'line'),
  [
    ('none', None, 'none: no such folder; name the MODEL_DIR of a training'),
    ('file', None, 'file: no such folder'),
    ('empty', None, 'empty holds no config.gin: name the MODEL_DIR'),
    ('fresh', None, 'fresh holds no checkpoint: wait until the run has saved'),
    ('run', 150, 'run holds no checkpoint of step 150: there are 100, 200'),
    ('run/checkpoint_3', None, 'no checkpoint of step 3: there are 100, 200'),
    ('run/checkpoint_100', 200, 'checkpoint_100 is step 100, but step 200'),
  ],
)
def test_missing_checkpoint_is_named(tmp_path, path, step, line):
  (tmp_path / 'file').write_text('')
  for name in ('empty', 'fresh', 'run'):
    (tmp_path / name).mkdir()
  saved(tmp_path / 'fresh', '', steps=())
  saved(tmp_path / 'run', '')
  with pytest.raises((FileNotFoundError, ValueError)) as error:
    model_directory.locate(tmp_path / path, step)
  assert line in str(error.value)
  assert '\n' not in str(error.value)


def test_configured_model_is_the_one_trained(trained):
  """Bindings of the commands in `__main__` are ignored."""
  assert '@gin_utils' in (trained / 'config.gin').read_text()
  configured = model_directory.configure(model_directory.locate(trained))
  assert configured.task_name == small_runs.TASK
  assert configured.feature_lengths == {'inputs': 24, 'targets': 16}
  config = configured.model.module.config
  assert (config.num_encoder_layers, config.emb_dim) == (3, 8)
  assert 'train.total_steps' not in gin.config_str()


def test_text_is_generated_by_the_chosen_checkpoint(trained):
  steps = {
    text_generation.TextGenerator(str(path), step).step
    for path, step in ((trained, 0), (trained / 'checkpoint_0', None))
  }
  assert steps == {0}
  assert text_generation.TextGenerator(str(trained)).step == 1


def test_overrides_come_last(trained):
  configured = model_directory.configure(
    model_directory.locate(trained),
    ["TASK_FEATURE_LENGTHS = {'inputs': 8, 'targets': 9}"],
  )
  assert configured.feature_lengths == {'inputs': 8, 'targets': 9}
  gin.clear_config()
  with pytest.raises(ValueError, match='no gin file of this run has the macro'):
    model_directory.configure(
      model_directory.locate(trained), ['TASK_FEATURE_LENGHTS = {}']
    )


@pytest.mark.parametrize(
  'statement',
  [
    'import evil_module',
    'from evil_module import anything',
    "MIXTURE_OR_TASK_MODULE = 'evil_module'",
    "include 'evil.gin'",
    'from fnet_t5x.compat import models\nMODEL = @models.os.system()\n'
    "models.os.system.command = 'touch ran'",
    'from fnet_t5x.compat import gin_utils\nMODEL = @gin_utils.parse_file()\n'
    "gin_utils.parse_file.name = 'evil.gin'\n"
    "gin_utils.parse_file.search_paths = ['.']",
  ],
)
def test_a_configuration_cannot_run_code(tmp_path, monkeypatch, statement):
  """Gin alone would run the code: see `test_gin_alone_would_run_it`."""
  write_evil(tmp_path, monkeypatch)
  folder = saved(
    tmp_path, f'from __gin__ import dynamic_registration\n{statement}\n'
  )
  with pytest.raises(ValueError) as error:
    model_directory.configure(model_directory.locate(folder))
  assert re.match(r'\S*config.gin', str(error.value))
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'ran').exists()
  assert 'evil_module' not in sys.modules


def write_evil(folder, monkeypatch):
  (folder / 'evil_module.py').write_text(
    f'open({str(folder / "ran")!r}, "w").close()\nanything = 1\n'
  )
  (folder / 'evil.gin').write_text('import evil_module\n')
  monkeypatch.syspath_prepend(str(folder))
  monkeypatch.chdir(folder)


def test_gin_alone_would_run_it(tmp_path, monkeypatch):
  write_evil(tmp_path, monkeypatch)
  gin.parse_config(
    'from __gin__ import dynamic_registration\nimport evil_module\n'
  )
  del sys.modules['evil_module']
  assert (tmp_path / 'ran').exists()
  os.remove(tmp_path / 'ran')


@pytest.mark.parametrize(
  ('text', 'line'),
  [
    ('A = 1\n', 'does not set MIXTURE_OR_TASK_NAME, MODEL, TASK_FEATURE_LENG'),
    (
      'from fnet_t5x.networks import t5\nA = @t5.Transformer()\n'
      't5.Transformer.nonsense = 1\n',
      'does not set',
    ),
    (
      'from fnet_t5x.tasks import no_such_module\n'
      "MODEL = 1\nMIXTURE_OR_TASK_NAME = 'a'\nTASK_FEATURE_LENGTHS = {}\n",
      'no_such_module',
    ),
    (
      'from fnet_t5x.networks import t5\nt5.Transformer.nonsense = 1\n'
      "MODEL = 1\nMIXTURE_OR_TASK_NAME = 'a'\nTASK_FEATURE_LENGTHS = {}\n",
      "parameter named 'nonsense'",
    ),
  ],
)
def test_configuration_of_no_run(tmp_path, text, line):
  folder = saved(tmp_path, f'from __gin__ import dynamic_registration\n{text}')
  with pytest.raises(ValueError, match=line) as error:
    model_directory.configure(model_directory.locate(folder))
  assert '\n' not in str(error.value)
