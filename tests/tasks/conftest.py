"""A folder of TFDS datasets, and a vocabulary that trains quickly."""

import pathlib

import gin
import made_up_text
import pytest
import sentencepiece
import seqio


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
    sentence_iterator=(
      made_up_text.paragraphs(seed=i, words=40) for i in range(40)
    ),
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
