"""Vocabularies: ids, training on first use, the cache, equality, gin."""

import copy
import os
import pathlib
import shutil
import subprocess
import sys

import gin
import pytest
import sentencepiece
import seqio
import tensorflow as tf

from fnet_t5x.tasks import corpus, sentencepiece_training, vocabularies


def _cached(folder: pathlib.Path) -> list[pathlib.Path]:
  return [p for p in folder.rglob('*') if p.is_file()]


def test_default_vocabulary_of_the_shipped_corpus():
  vocabulary = vocabularies.DefaultVocabulary()
  assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2)
  assert vocabulary.bos_id == -1
  assert vocabulary.vocab_size == 8100
  assert vocabulary.extra_ids == 100
  assert vocabulary.encode('<extra_id_0>') == [8099]
  assert vocabulary.encode('<extra_id_99>') == [8000]
  for _, text in list(corpus.documents('validation'))[::4]:
    ids = vocabulary.encode(text)
    assert ids.count(2) < 1e-4 * len(ids)
    tensor = vocabulary.encode_tf(tf.constant(text))
    assert tensor.numpy().tolist() == ids
    kept = [i for i in ids if i != 2]
    assert len(vocabulary.decode(kept).split()) >= 0.99 * len(text.split())
    assert len(text) > 3.5 * len(ids)


def test_nothing_is_trained_before_the_first_use(small_corpus, capfd):
  cache = sentencepiece_training.cache_dir()
  vocabulary = vocabularies.DefaultVocabulary()
  copy.deepcopy(vocabulary)
  seqio.Feature(vocabulary)
  assert not cache.exists()
  assert vocabulary.vocab_size == 260
  assert len(_cached(cache)) == 1
  out, err = capfd.readouterr()
  assert out == ''
  before, after = err.splitlines()
  what = 'a vocabulary of 160 pieces'
  assert before == f'fnet_t5x: training {what} on the shipped corpus ...'
  assert f'trained {what} in ' in after
  assert vocabularies.default_vocabulary().vocab_size == 260
  assert capfd.readouterr() == ('', '')


def test_validation_text_is_not_trained_on(small_corpus):
  tokenizer = vocabularies.default_vocabulary().tokenizer
  pieces = [tokenizer.id_to_piece(i) for i in range(tokenizer.get_piece_size())]
  assert not any('☃' in piece for piece in pieces)


def test_training_is_deterministic(small_corpus):
  path = vocabularies.trained_model_file(160)
  first = path.read_bytes()
  path.unlink()
  assert vocabularies.trained_model_file(160) == path
  assert path.read_bytes() == first


@pytest.mark.slow
def test_cache_key_follows_corpus_and_parameters(small_corpus, monkeypatch):
  paths = {
    vocabularies.trained_model_file(160),
    vocabularies.trained_model_file(170),
  }
  (small_corpus / '1931-Example-1.txt').write_text('a new address ' * 9)
  paths.add(vocabularies.trained_model_file(160))
  monkeypatch.setattr(sentencepiece, '__version__', '0.0.1')
  paths.add(vocabularies.trained_model_file(160))
  assert len(paths) == 4


@pytest.mark.slow
def test_two_processes_at_once_share_the_cache(small_corpus):
  program = (
    'from fnet_t5x.tasks import vocabularies;'
    'path = vocabularies.trained_model_file(160);'
    "print(vocabularies.from_file(path).encode('the union of states'))"
  )
  env = {
    **os.environ,
    'PYTHONPATH': os.pathsep.join(
      [str(small_corpus.parents[2]), *filter(None, sys.path)]
    ),
  }
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', program],
      env=env,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
    for _ in range(2)
  ]
  outputs = [p.communicate(timeout=120)[0] for p in processes]
  assert [p.returncode for p in processes] == [0, 0]
  assert outputs[0] == outputs[1]
  assert len(_cached(sentencepiece_training.cache_dir())) == 1


def test_an_interrupted_write_leaves_nothing(small_corpus, monkeypatch):
  replace = os.replace

  def interrupted(source, target):
    assert pathlib.Path(source).stat().st_size > 0
    assert not os.path.exists(target)
    raise KeyboardInterrupt

  monkeypatch.setattr(os, 'replace', interrupted)
  with pytest.raises(KeyboardInterrupt):
    vocabularies.trained_model_file(160)
  assert not _cached(sentencepiece_training.cache_dir())
  monkeypatch.setattr(os, 'replace', replace)
  assert vocabularies.trained_model_file(160).is_file()


def test_equality_is_by_content(small_corpus, tmp_path):
  ours = vocabularies.DefaultVocabulary()
  elsewhere = tmp_path / 'elsewhere.model'
  shutil.copy(vocabularies.trained_model_file(160), elsewhere)
  same = vocabularies.from_file(elsewhere)
  assert ours == vocabularies.DefaultVocabulary()
  assert ours == same
  assert same == ours
  assert (ours != same, same != ours) == (False, False)
  assert ours == copy.deepcopy(ours)
  for other in (
    vocabularies.from_file(elsewhere, extra_ids=99),
    vocabularies.from_file(vocabularies.trained_model_file(170)),
    seqio.ByteVocabulary(),
  ):
    assert ours != other
    assert other != ours


def test_gin_affects_existing_vocabularies(small_corpus):
  vocabulary = vocabularies.DefaultVocabulary()
  assert vocabulary.vocab_size == 260
  gin.parse_config(
    'from __gin__ import dynamic_registration\n'
    'from fnet_t5x.tasks import vocabularies\n'
    'vocabularies.default_vocabulary.vocab_size = 150\n'
    'vocabularies.default_vocabulary.extra_ids = 7\n'
  )
  assert vocabulary.vocab_size == 157
  assert vocabulary.extra_ids == 7
  assert vocabulary == vocabularies.default_vocabulary()


def test_your_own_model_file(small_corpus, tmp_path):
  path = tmp_path / 'own.model'
  shutil.copy(vocabularies.trained_model_file(170), path)
  gin.bind_parameter('default_vocabulary.sentencepiece_model_file', str(path))
  vocabulary = vocabularies.DefaultVocabulary()
  assert vocabulary.sentencepiece_model_file == str(path)
  assert vocabulary.vocab_size == 270


def test_missing_model_file_is_an_error(tmp_path):
  path = tmp_path / 'none.model'
  with pytest.raises(FileNotFoundError, match=f'{path}.*check the path'):
    vocabularies.from_file(path)


def test_broken_model_file_is_an_error(tmp_path):
  path = tmp_path / 'broken.model'
  for content in (b'', b'no model at all'):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'broken\.model is not a Sentence'):
      vocabularies.from_file(path)


def test_other_special_ids_are_an_error(small_corpus, tmp_path, monkeypatch):
  train = sentencepiece.SentencePieceTrainer.train

  def with_defaults(**kwargs):
    for key in ('pad_id', 'eos_id', 'unk_id', 'bos_id'):
      kwargs.pop(key)
    train(**kwargs)

  monkeypatch.setattr(
    sentencepiece.SentencePieceTrainer, 'train', with_defaults
  )
  path = vocabularies.trained_model_file(160)
  with pytest.raises(ValueError, match=r'needs \(0, 1, 2\)'):
    vocabularies.from_file(path)


def test_unwritable_cache_is_an_error(small_corpus, tmp_path, monkeypatch):
  (tmp_path / 'file').touch()
  monkeypatch.setenv('FNET_T5X_CACHE_DIR', str(tmp_path / 'file' / 'cache'))
  with pytest.raises(ValueError, match='FNET_T5X_CACHE_DIR'):
    vocabularies.trained_model_file(160)


def test_too_many_pieces_for_the_corpus_is_an_error(small_corpus):
  with pytest.raises(ValueError, match='vocabulary of 9000 pieces'):
    vocabularies.trained_model_file(9000)
