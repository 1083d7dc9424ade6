"""The summary of your own text that a run prints."""

import re

import document_corpora
import gin
import pytest
import sentencepiece

from fnet_t5x.tasks import text_files, text_notice, vocabularies

LENGTHS = {'inputs': 24, 'targets': 8}


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
  monkeypatch.delenv(text_files.VARIABLE, raising=False)


def _lines(task='fnet_text_prefix_lm', steps=50):
  return list(text_notice.lines(task, LENGTHS, 16, steps))


def _bind(**values):
  for name, value in values.items():
    gin.bind_parameter(f'text_files.corpus.{name}', value)


def test_counts_of_a_corpus(tmp_path):
  document_corpora.write(tmp_path / 'a.jsonl.zst', range(200))
  _bind(train=f'{tmp_path}/*.zst')
  size = sum(len(document_corpora.text(n).encode()) for n in range(200))
  texts = [document_corpora.text(n) for n in range(200)]
  model = str(vocabularies.trained_model_file())
  processor = sentencepiece.SentencePieceProcessor(model_file=model)
  tokens = sum(map(len, processor.encode(texts)))
  text, held_out, vocabulary, file, *remedies, passes = _lines()
  assert text == (
    f'text: 1 file, 200 documents, {size / 1000:.3g} KB, '
    f'about {float(f"{tokens:.2g}"):,.0f} tokens'
  )
  assert re.fullmatch(
    r'held out for validation: \d+ documents, \d+ bytes', held_out
  )
  assert vocabulary == (
    f'vocabulary: 8,000 pieces, {size / tokens:.2f} bytes per token'
  )
  assert file.strip() == model
  # The shipped corpus's vocabulary lacks ☃, some digits, and line breaks.
  assert [re.sub(r'^[\d.]+', 'N', line)[:12] for line in remedies] == [
    'N % of the c',
    'this vocabul',
  ]
  assert passes == (
    '50 steps of 16 x (24 + 8) tokens: '
    f'about {50 * 16 * 32 / tokens:.2g} passes over the text'
  )


def test_passages_and_validation_files_of_their_own(tmp_path):
  (tmp_path / 'a.txt').write_text('some words\n' * 2000)
  _bind(train=f'{tmp_path}/a.txt')
  (tmp_path / 'a.txt').write_text('\n'.join(map(str, range(5000))))
  assert re.search(r': \d+ passages?, ', _lines()[1])
  (tmp_path / 'b.txt').write_text('others')
  _bind(validation=f'{tmp_path}/b.txt')
  assert _lines()[1] == 'held out for validation: 1 document, 6 bytes'


def test_bad_documents_are_reported(tmp_path):
  for number in range(30):
    (tmp_path / f'{number}.txt').write_text(f'some words {number}')
  (tmp_path / 'x.txt').write_text('')
  _bind(train=f'{tmp_path}/*.txt')
  with pytest.raises(ValueError, match=r'x\.txt, line 1: .* is empty'):
    _lines()
  gin.bind_parameter('ReadOptions.skip_bad_documents', True)
  assert _lines()[-2] == (
    'skipped: 1 bad document (SKIP_BAD_DOCUMENTS=False names the first)'
  )


def test_nothing_is_printed_for_other_sources():
  assert _lines('fnet_sotu_prefix_lm') == []


@pytest.mark.parametrize(
  ('texts', 'share', 'message'),
  [
    (['', ' '], None, 'TEXT_FILES: no text in 2 files'),
    (['one'], None, 'none of them held out .* TEXT_VALIDATION_FILES'),
    (['one', 'two'], 0.01, 'none of them held out .*: raise HELD_OUT_SHARE'),
    (['one', 'two'], 0.9999, 'all documents are held out .*: lower HELD_OUT_'),
  ],
)
def test_empty_split_is_an_error_before_step_1(tmp_path, texts, share, message):
  for number, text in enumerate(texts):
    (tmp_path / f'{number}.txt').write_text(text)
  _bind(train=f'{tmp_path}/*.txt', held_out_share=share)
  gin.bind_parameter('ReadOptions.skip_bad_documents', True)
  with pytest.raises(ValueError, match=message):
    _lines()
