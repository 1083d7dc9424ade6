"""Static gin checks: errors are found before a pod starts."""

import importlib.util

import pytest
from checkout import ROOT

from fnet_t5x import gin_check

RUN_FILES = {
  'train': ['gin/runs/pretrain.gin'],
  'eval': ['gin/runs/eval.gin'],
  'infer': ['gin/runs/infer.gin'],
}
MODEL = [
  'gin/models/fnet_t5_large.gin',
  'gin/objectives/span_corruption.gin',
  'gin/sources/c4.gin',
]
BINDINGS = {
  'train': ["MODEL_DIR='gs://b/r'", 'TRAIN_STEPS=10'],
  'eval': ["EVAL_OUTPUT_DIR='gs://b/r'", "CHECKPOINT_PATH='gs://b/r/c'"],
  'infer': ["INFER_OUTPUT_DIR='gs://b/r'", "CHECKPOINT_PATH='gs://b/r/c'"],
}


def check(mode='train', files=None, more=(), bindings=None, folders=()):
  gin_check.check(
    mode,
    MODEL + RUN_FILES[mode] if files is None else files,
    [*(BINDINGS[mode] if bindings is None else bindings), *more],
    [str(ROOT), *map(str, folders)],
  )


@pytest.mark.parametrize('mode', RUN_FILES)
def test_whole_runs_pass(mode):
  check(
    mode,
    more=[
      "TASK_FEATURE_LENGTHS = {'inputs': 512, 'targets': 114}",
      "tfds_source.tfds_options.versions = {'c4/en': %C4_VERSION}",
    ],
  )


def test_whole_experiments_pass():
  check(files=['gin/experiments/quickstart.gin'], bindings=[])


@pytest.mark.parametrize(
  'arguments, message',
  [
    ({'files': ['gin/models/huge.gin']}, 'gin/models/huge.gin: in none of'),
    ({'more': ['BATCH_SIZ=3']}, 'did you mean BATCH_SIZE?'),
    ({'more': ['XYZZY=3']}, 'has the macro XYZZY; correct the name'),
    ({'more': ["TEXT_FILES='x'"]}, 'add --gin_file=gin/sources/text.gin'),
    ({'more': ['BATCH_SIZE=']}, 'nothing is not a gin value'),
    ({'more': ['ENCODER_MIXING=none at all']}, 'strings need quotes'),
    ({'more': ["TASK_FEATURE_LENGTHS={'inputs': 1"]}, 'not a gin value'),
    ({'more': ['BATCH_SIZE=1\nBATCH_SIZE=2']}, 'not one binding'),
    ({'bindings': ["MODEL_DIR='gs://b/r'"]}, 'TRAIN_STEPS not set'),
    ({'more': ['BATCH_SIZE=%ANOTHER']}, 'ANOTHER not set'),
    ({'files': MODEL}, 'add --gin_file=gin/runs/pretrain.gin'),
    (
      {'mode': 'eval', 'files': ['gin/experiments/quickstart.gin']},
      'configures train, not evaluate',
    ),
  ],
)
def test_what_cannot_start_is_one_line(arguments, message):
  with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
    check(**arguments)
  assert '\n' not in str(error.value)


@pytest.fixture
def t5x(tmp_path, monkeypatch):
  """A stand-in for T5X with a gin file, which reports if it is imported."""
  folder = tmp_path / 'site/t5x'
  (folder / 'examples').mkdir(parents=True)
  (folder / '__init__.py').write_text('raise AssertionError("imported")')
  (folder / 'examples/small.gin').write_text('OF_T5X = 1\n')
  monkeypatch.syspath_prepend(str(tmp_path / 'site'))


def stock(folder, name='small', elsewhere=('t5x',), more=()):
  (folder / 'mine.gin').write_text(f"include 't5x/examples/{name}.gin'\n")
  return gin_check.check(
    'train',
    ['mine.gin', *MODEL, *RUN_FILES['train']],
    [*BINDINGS['train'], *more],
    [str(ROOT), str(folder)],
    elsewhere=elsewhere,
  )


def test_files_of_t5x_are_read_if_installed(tmp_path, t5x):
  contents = stock(tmp_path, more=['OF_T5X=2'])
  assert contents.unseen == []
  assert contents.macros['OF_T5X'].value == 2
  with pytest.raises(ValueError, match=r'no gin file of this .* XYZZY'):
    stock(tmp_path, more=['XYZZY=2'])
  with pytest.raises(
    FileNotFoundError, match=r't5x/examples/none.gin: in none'
  ):
    stock(tmp_path, 'none')


@pytest.mark.skipif(
  importlib.util.find_spec('t5x') is not None, reason='T5X is there'
)
def test_files_of_t5x_are_unseen_if_not_installed(tmp_path):
  contents = stock(tmp_path, more=['OF_T5X=2'])
  assert contents.unseen == ['t5x/examples/small.gin']
  # A run on this machine cannot start without it.
  with pytest.raises(FileNotFoundError, match=r't5x/examples/small.gin: in'):
    stock(tmp_path, elsewhere=())
  with pytest.raises(FileNotFoundError, match='gin_search_paths=FOLDER; gin/m'):
    stock(tmp_path, elsewhere=())


def test_macros_that_stay_required_are_named(tmp_path):
  """As T5X's run files have them; those that nothing uses may stay."""
  (tmp_path / 'mine.gin').write_text(
    'TRAIN_STEPS = %gin.REQUIRED\nMODEL_DIR = %gin.REQUIRED\n'
    'UNUSED = %gin.REQUIRED\n'
  )
  files = [*MODEL, *RUN_FILES['train'], 'mine.gin']
  with pytest.raises(ValueError, match=r'^MODEL_DIR not set, as mine.gin') as e:
    check(files=files, bindings=['TRAIN_STEPS=3'], folders=[tmp_path])
  assert 'TRAIN_STEPS' not in str(e.value)
  check(files=files, folders=[tmp_path])


def test_imports_have_a_place(tmp_path):
  (tmp_path / 'mine.gin').write_text('A = 1\nfrom t5x import utils\n')
  contents = gin_check.read(['mine.gin'], [], [str(tmp_path)])
  assert contents.imports == {'t5x.utils': 'mine.gin, line 2'}


@pytest.mark.parametrize(
  'text, message',
  [
    ('A = 1\nB = = 2\n', r"mine.gin, line 2: not gin: 'B = = 2'"),
    ("A = {'a': 1\n", 'mine.gin: a bracket or quotes are not closed'),
    ("include 'gin/none.gin'\n", 'mine.gin includes gin/none.gin: in none of'),
    ("include 'mine.gin'\n", 'mine.gin includes mine.gin, which includes it'),
    (f'A = {9000 * "("}1{9000 * ")"}\n', 'mine.gin: brackets or includes'),
  ],
)
def test_broken_files_are_named(tmp_path, text, message):
  (tmp_path / 'mine.gin').write_text(text)
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    check(files=['mine.gin'], folders=[tmp_path])
