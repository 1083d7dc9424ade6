"""Untrusted saved configurations: what is allowed, kept and dropped."""

import re

import pytest
from checkout import ROOT

from fnet_t5x import saved_config

FILES = sorted((ROOT / 'gin').rglob('*.gin'))
START = 'from __gin__ import dynamic_registration\n'
MODELS = START + 'from fnet_t5x.compat import models\n'


def read(text):
  return saved_config.read(text, 'x/config.gin')


@pytest.mark.parametrize('file', FILES, ids=lambda f: f.name)
def test_configurables_of_our_gin_files_are_allowed(file):
  """A saved file has the contents of included files in their place."""
  text = re.sub(r'(?m)^include .*$', '', file.read_text())
  if 'import' not in text:
    text = START + text
  read(text)


def test_the_model_is_kept_and_the_run_is_dropped():
  kept = read(
    START
    + """
import __main__ as train_script
import seqio
from fnet_t5x.compat import models
from fnet_t5x.compat import utils
from fnet_t5x.tasks import catalog
A = {'a': (1, 'b'), 'c': [None, %B]}
B = 2.5
MODEL = @models.EncoderDecoderModel()
RUN = @utils.DatasetConfig()
train_script.train.model = %MODEL
utils.RestoreCheckpointConfig.assignment_map = ()
seqio.Evaluator:
  num_examples = 1
models.EncoderDecoderModel:
  z_loss = %A
models.EncoderDecoderModel.predict_batch_with_aux.num_decodes = 4
"""
  )
  assert kept.text == (
    START + 'from fnet_t5x.compat import models\n'
    'from fnet_t5x.tasks import catalog\n'
    "A = {'a': (1, 'b'), 'c': [None, %B]}\n"
    'B = 2.5\n'
    'MODEL = @models.EncoderDecoderModel()\n'
    'models.EncoderDecoderModel.z_loss = %A\n'
    'models.EncoderDecoderModel.predict_batch_with_aux.num_decodes = 4\n'
  )
  assert kept.macros['B'] == 2.5
  assert sorted(kept.macros) == ['A', 'B', 'MODEL']
  # The kept text is gin, and reading it again changes nothing.
  assert read(kept.text) == kept


@pytest.mark.parametrize(
  ('text', 'line'),
  [
    (START + 'import os\n', 'config.gin, line 2: imports os, which may run'),
    (START + 'from os import path\n', 'imports os.path'),
    (START + 'import antigravity as models\n', 'imports antigravity'),
    # A checkout's folder of runs is a package to Python: of their modules.
    (START + 'import fnet_t5x.runs.theirs.model\n', 'imports fnet_t5x.runs.th'),
    (START + 'from fnet_t5x import quickstart\n', 'imports fnet_t5x.quick'),
    (START + 'import fnet_t5x\n', 'imports fnet_t5x,'),
    (START + "include 'gin/models/t5_tiny.gin'\n", "includes 'gin/models/t5"),
    (MODELS + 'MODEL = @models.os.system()\n', 'models.os.system is not'),
    (MODELS + 'A = [{1: @models.jax.run()}]\n', 'models.jax.run is not'),
    (MODELS + 'models.os.system.command = 1\n', 'models.os.system is not'),
    (MODELS + 'models.os.system:\n  command = 1\n', 'models.os.system is not'),
    (MODELS + 'MODEL = @os.system()\n', 'os of os.system is not imported'),
    (
      MODELS + 'A = @models.EncoderDecoderModel.__init__()\n',
      'EncoderDecoderModel.__init__ is not allowed',
    ),
    (
      START + 'import seqio\nA = @seqio.utils.map_over_dataset()\n',
      'seqio.utils.map_over_dataset is not allowed',
    ),
    (START + 'A = @gin.macro()\n', 'gin.macro is not allowed'),
    (
      START + 'from fnet_t5x.tasks import c4\n'
      'from fnet_t5x.tasks import pile as c4\n',
      'c4 is imported twice',
    ),
    (
      START + "MIXTURE_OR_TASK_MODULE = 'antigravity'\n",
      "MIXTURE_OR_TASK_MODULE = 'antigravity' would be imported",
    ),
    (
      START + "A = 'antigravity'\nMIXTURE_OR_TASK_MODULE = %A\n",
      'MIXTURE_OR_TASK_MODULE = %A: in a model directory',
    ),
    (
      START + "MIXTURE_OR_TASK_MODULE = 'fnet_t5x.runs.theirs'\n",
      'would be imported',
    ),
    # Without it, gin would resolve names among all registered configurables.
    ('A = 1\n', "not a training run's configuration of this package"),
    ('', "not a training run's configuration of this package"),
    (START + 'A = (\n', 'a bracket or quotes are not closed'),
    (START + 'A B\n', 'line 2: not gin'),
  ],
)
def test_untrusted_code_is_rejected(text, line):
  with pytest.raises(ValueError, match=re.escape(line)) as error:
    read(text)
  assert '\n' not in str(error.value)


def test_references_in_dropped_statements_are_dropped():
  """A function of a run's module is accepted, but not passed on to gin."""
  kept = read(
    START + 'from fnet_t5x.compat import gin_utils\n'
    "gin_utils.parse_file.name = 'evil.gin'\n"
    'MODEL = @gin_utils.parse_file()\n'
  )
  assert kept.text == START
  assert not kept.macros


def test_modules_of_tasks_may_be_named():
  text = START + "MIXTURE_OR_TASK_MODULE = 'fnet_t5x.tasks.sotu'\n"
  assert read(text).macros == {'MIXTURE_OR_TASK_MODULE': 'fnet_t5x.tasks.sotu'}


def test_modules_that_the_user_trusts(monkeypatch):
  """Trust comes from the environment, never from the file."""
  text = (
    START + 'import my_tasks\nfrom my_models import hybrid\n'
    "MIXTURE_OR_TASK_MODULE = 'my_tasks.more'\n"
    'MODEL = @hybrid.Model()\nhybrid.Model.size = 1\n'
  )
  with pytest.raises(ValueError, match='FNET_T5X_TRUSTED_MODULES=my_tasks'):
    read(text)
  monkeypatch.setenv(saved_config.TRUST_VARIABLE, 'my_tasks, my_models.hybrid')
  kept = read(text)
  assert kept.text == text
  # Other modules stay untrusted.
  for name in ('my_tasks_too', 'my_models.other', 'os'):
    with pytest.raises(ValueError, match=f'imports {name}, which may run'):
      read(START + f'import {name}\n')
