"""The vocabulary kept by a run, independent of its source."""

import gin
import pytest
import sentencepiece
import seqio

from fnet_t5x.compat import gin_utils
from fnet_t5x.runtime import kept_vocabulary
from fnet_t5x.tasks import vocabularies

NAMED = 'vocabularies.default_vocabulary.sentencepiece_model_file'
CONFIG = """
from __gin__ import dynamic_registration
import seqio
from fnet_t5x.tasks import vocabularies
VOCABULARY = @vocabularies.default_vocabulary()
"""


@pytest.fixture(scope='module')
def models(tmp_path_factory):
  """Returns two SentencePiece model files of the same size."""
  folder = tmp_path_factory.mktemp('models')
  paths = []
  for name, words in (('a', 'union state'), ('b', 'ocean river')):
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter([words * 9] * 9),
      model_prefix=str(folder / name),
      vocab_size=20,
      hard_vocab_limit=False,
      pad_id=0,
      eos_id=1,
      unk_id=2,
      bos_id=-1,
      minloglevel=2,
    )
    paths.append(folder / f'{name}.model')
  return paths


def configure(*lines):
  gin.clear_config()
  gin.parse_config('\n'.join([CONFIG, *lines]))


def test_a_run_keeps_its_vocabulary(models, tmp_path):
  configure(f'{NAMED} = {str(models[0])!r}')
  run = tmp_path / 'run'
  gin_utils.summarize_gin_config(str(run), None, 0)
  assert sorted(p.name for p in run.iterdir()) == [
    'config.gin',
    'vocabulary.model',
  ]
  assert (run / 'vocabulary.model').read_bytes() == models[0].read_bytes()
  # Again, as at each start: the vocabulary is the same.
  gin_utils.summarize_gin_config(str(run), None, 0)
  configure(f'{NAMED} = {str(models[1])!r}')
  with pytest.raises(ValueError, match=r'differs from .*vocabulary\.model'):
    gin_utils.summarize_gin_config(str(run), None, 0)
  assert (run / 'vocabulary.model').read_bytes() == models[0].read_bytes()


@pytest.mark.parametrize('vocabulary', ['@seqio.ByteVocabulary()', 'None'])
def test_byte_vocabulary_is_not_saved(tmp_path, vocabulary):
  configure(f'VOCABULARY = {vocabulary}')
  kept_vocabulary.keep(str(tmp_path))
  assert not list(tmp_path.iterdir())


def test_run_resumes_with_its_vocabulary(models, tmp_path, monkeypatch, capsys):
  """No vocabulary is trained, and no corpus is read."""
  (tmp_path / 'vocabulary.model').write_bytes(models[0].read_bytes())
  monkeypatch.setenv('FNET_T5X_CACHE_DIR', str(tmp_path / 'cache'))
  configure(f'MODEL_DIR = {str(tmp_path)!r}')
  gin.finalize()
  kept_vocabulary.use_configured('train')
  kept = str(tmp_path / 'vocabulary.model')
  assert vocabularies.default_vocabulary().sentencepiece_model_file == kept
  # Also for the lazy vocabulary of tasks.
  assert vocabularies.DefaultVocabulary() == seqio.SentencePieceVocabulary(
    kept, 100
  )
  assert capsys.readouterr().out.startswith(f'vocabulary: {kept}')
  assert not (tmp_path / 'cache').exists()


@pytest.mark.parametrize(
  ('run', 'macro'),
  [
    ('train', 'INITIAL_CHECKPOINT_PATH'),
    ('evaluate', 'CHECKPOINT_PATH'),
    ('infer', 'CHECKPOINT_PATH'),
  ],
)
def test_checkpoint_determines_the_vocabulary(models, tmp_path, run, macro):
  (tmp_path / 'vocabulary.model').write_bytes(models[0].read_bytes())
  configure(
    f'{macro} = {str(tmp_path / "checkpoint_7")!r}',
    # The run that saved the configuration, or a new one.
    f'MODEL_DIR = {str(tmp_path / "new")!r}',
  )
  kept_vocabulary.use_configured(run)
  found = vocabularies.default_vocabulary().sentencepiece_model_file
  assert found == str(tmp_path / 'vocabulary.model')


def test_several_checkpoints_have_the_vocabulary_of_the_first(models, tmp_path):
  (tmp_path / 'vocabulary.model').write_bytes(models[0].read_bytes())
  paths = [str(tmp_path / f'checkpoint_{step}') for step in (7, 8)]
  configure(f'CHECKPOINT_PATH = {paths!r}')
  kept_vocabulary.use_configured('evaluate')
  found = vocabularies.default_vocabulary().sentencepiece_model_file
  assert found == str(tmp_path / 'vocabulary.model')


@pytest.mark.parametrize('gone', [False, True])
def test_configured_vocabulary_must_match(models, tmp_path, gone):
  """It must equal the run's, which is used if the named file is gone."""
  kept = tmp_path / 'vocabulary.model'
  kept.write_bytes(models[0].read_bytes())
  other = tmp_path / 'other.model'
  other.write_bytes(models[1].read_bytes())
  # Through macros, as in gin/vocabularies/t5.gin.
  configure(
    f'{NAMED} = %VOCABULARY_FILE',
    'VOCABULARY_FILE = %FILE',
    f'FILE = {str(other)!r}',
  )
  if gone:
    other.unlink()
    kept_vocabulary.use(str(tmp_path))
    found = vocabularies.default_vocabulary().sentencepiece_model_file
    assert found == str(kept)
    return
  with pytest.raises(ValueError) as error:
    kept_vocabulary.use(str(tmp_path))
  assert str(error.value).startswith(f'{other} differs from {kept}')
  assert f"VOCABULARY_FILE='{kept}'" in str(error.value)
  assert '\n' not in str(error.value)
  # A copy of the run's is accepted, and remains the configured one.
  other.write_bytes(models[0].read_bytes())
  kept_vocabulary.use(str(tmp_path))
  found = vocabularies.default_vocabulary().sentencepiece_model_file
  assert found == str(other)


def test_folder_without_a_vocabulary_changes_nothing(models, tmp_path):
  configure(f'{NAMED} = {str(models[0])!r}', f'MODEL_DIR = {str(tmp_path)!r}')
  before = gin.config_str()
  kept_vocabulary.use_configured('train')
  assert gin.config_str() == before
