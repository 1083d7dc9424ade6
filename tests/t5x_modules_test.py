"""T5X's modules in gin files, where T5X is absent or not the engine."""

import subprocess
import sys

import gin
import pytest
from gin import config

from fnet_t5x import saved_config, t5x_modules
from fnet_t5x.networks import t5
from fnet_t5x.runtime import checkpoints, gin_utils, model_directory

HEADER = 'from __gin__ import dynamic_registration\n'


def parse(folder, text, *bindings):
  path = folder / 'run.gin'
  path.write_text(HEADER + text)
  gin_utils.parse_gin_flags(['.'], [str(path)], bindings, finalize_config=False)


@pytest.fixture(autouse=True)
def t5x(tmp_path, monkeypatch):
  """A stand-in for T5X that must not be imported."""
  folder = tmp_path / 'site/t5x'
  folder.mkdir(parents=True)
  (folder / '__init__.py').write_text('raise AssertionError("imported")')
  monkeypatch.syspath_prepend(str(tmp_path / 'site'))


@pytest.mark.parametrize(
  ('statement', 'name'),
  [
    ('from t5x import utils', 'utils'),
    ('from t5x import utils as u', 'u'),
    ('import t5x.utils as u', 'u'),
    ('import t5x.utils', 't5x.utils'),
    ('import t5x.models\nimport t5x.utils\nimport t5x.trainer', 't5x.utils'),
  ],
)
def test_members_are_the_runtimes(tmp_path, statement, name):
  parse(tmp_path, f'{statement}\n{name}.SaveCheckpointConfig.period = 5\n')
  assert gin.get_configurable(checkpoints.SaveCheckpointConfig)().period == 5
  # What the run saves names our modules, so that it can be read without T5X.
  saved = gin.config_str()
  assert 't5x' not in saved.replace('fnet_t5x', '')
  gin.clear_config()
  gin.parse_config(saved)
  assert gin.get_configurable(checkpoints.SaveCheckpointConfig)().period == 5
  assert 't5x' not in sys.modules


def test_included_files_and_bindings(tmp_path, capsys):
  (tmp_path / 'base.gin').write_text(
    HEADER + 'from t5x.examples.t5 import network\n'
    'from t5x import models\n'
    'MODEL = @models.EncoderDecoderModel()\n'
    'models.EncoderDecoderModel.module = @network.Transformer()\n'
    'network.Transformer.config = @network.T5Config()\n'
    'network.T5Config:\n  vocab_size = 128\n  emb_dim = 512\n'
  )
  parse(
    tmp_path,
    f"include '{tmp_path}/base.gin'\nfrom t5x.examples.t5 import network\n"
    'network.T5Config.emb_dim = 64\nnetwork.T5Config.num_heads = 3\n',
  )
  network = gin.get_configurable(t5.Transformer)()
  assert network.config.emb_dim == 64
  assert network.config.num_heads == 3
  # One line of output.
  out = capsys.readouterr().out
  assert out == "t5x in the gin files: the embedded runtime's modules (2)\n"
  read = saved_config.read(gin.config_str(), 'config.gin')
  assert repr(read.macros['MODEL']) == '@models.EncoderDecoderModel()'


@pytest.mark.slow
def test_bindings_of_the_command_line(tmp_path):
  """In a process of their own: gin finds them by the first name of a class."""
  path = tmp_path / 'run.gin'
  path.write_text(
    HEADER + 'from t5x.examples.t5 import network\n'
    'network.T5Config.num_heads = 5\n'
  )
  program = (
    'import gin\n'
    'from fnet_t5x.networks import t5\n'
    'from fnet_t5x.runtime import gin_utils\n'
    f'gin_utils.parse_gin_flags(["."], [{str(path)!r}], '
    '["network.T5Config.num_heads = 3"], finalize_config=False)\n'
    'print(gin.get_configurable(t5.T5Config)(vocab_size=8).num_heads)\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  assert done.stdout.splitlines()[-1] == '3'


def test_every_module_in_the_table_exists(tmp_path):
  for module in t5x_modules.MODULES:
    parse(tmp_path, f'import {module} as served\n')
  assert 't5x' not in sys.modules


@pytest.mark.parametrize(
  ('statement', 'message'),
  [
    (
      'from t5x import export_lib',
      r'run.gin.*, line 2: t5x.export_lib: .* has',
    ),
    ('import t5x', r'line 2: t5x: the embedded runtime has no such module'),
    (
      'from t5x.contrib.moe import trainer as moe_trainer',
      r'line 2: t5x.contrib.moe.trainer: .* mixtures of experts need T5X',
    ),
    ('import t5x.utils.os', r'line 2: t5x.utils.os: the embedded runtime'),
    ('import t5xx', "No module named 't5xx'"),
  ],
)
def test_other_modules_are_refused(tmp_path, statement, message):
  with pytest.raises((ImportError, ValueError), match=message) as error:
    parse(tmp_path, f'{statement}\n')
  assert '\n' not in str(error.value)
  assert 't5x' not in sys.modules


def test_other_parsers_are_left_alone(tmp_path):
  """Neither after a file nor after an error does gin serve the modules."""
  before = config.ParseContext
  parse(tmp_path, 'from t5x import utils\n')
  assert config.ParseContext is before
  with pytest.raises(ImportError):
    parse(tmp_path, 'from t5x import no_such\n')
  assert config.ParseContext is before
  with pytest.raises(AssertionError, match='imported'):
    gin.parse_config('import t5x.utils')


def test_a_configuration_that_t5x_saved_is_read(tmp_path):
  """The model of a run of T5X with its own network, without T5X."""
  folder = tmp_path / 'run'
  (folder / 'checkpoint_1').mkdir(parents=True)
  (folder / 'config.gin').write_text(
    HEADER + 'from t5x import models\nfrom t5x import utils\n'
    'from t5x.examples.t5 import network\n'
    'MODEL = @models.EncoderDecoderModel()\n'
    'models.EncoderDecoderModel.module = @network.Transformer()\n'
    'network.Transformer.config = @network.T5Config()\n'
    'network.T5Config.vocab_size = 77\n'
    'utils.SaveCheckpointConfig.period = 5\n'
  )
  model_directory.parse(model_directory.locate(str(folder)))
  assert gin.get_configurable(t5.Transformer)().config.vocab_size == 77
  assert 'period' not in gin.config_str()
  assert 't5x' not in sys.modules


def test_a_saved_configuration_gains_nothing():
  """Those are not trusted: what they may name is another list."""
  text = f'{HEADER}from t5x import models\nA = @models.os.system()\n'
  with pytest.raises(ValueError, match=r'line 3: models.os.system is not all'):
    saved_config.read(text, 'config.gin')
  for module in ('export_lib', 'losses', 'utils'):
    text = f'{HEADER}from t5x import {module} as m\nA = @m.os.system()\n'
    read = saved_config.read(text, 'config.gin')
    assert read.text.splitlines() == [HEADER.strip()]


def test_places_are_named_before_anything_is_imported():
  t5x_modules.check({'t5x.utils': 'a.gin, line 1', 'os': 'a.gin, line 2'})
  with pytest.raises(ImportError, match=r'^a.gin, line 3: t5x.precompile: '):
    t5x_modules.check({'t5x.precompile': 'a.gin, line 3'})


def test_the_engine_t5x_gets_its_own_modules(monkeypatch):
  from fnet_t5x.compat import engine

  monkeypatch.setattr(engine, 'USES_T5X', True)
  with t5x_modules.served_to_gin() as served:
    with pytest.raises(AssertionError, match='imported'):
      gin.parse_config('from t5x import utils')
    assert served == []
