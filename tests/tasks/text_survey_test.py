"""Survey of your own corpus: counts, and the part held out."""

import json

import document_corpora
import numpy as np
import pytest

from fnet_t5x.tasks import document_files, document_source, text_survey

OPTIONS = document_files.ReadOptions()


@pytest.fixture(autouse=True)
def _no_memory():
  text_survey._survey.cache_clear()


def _words(count, seed=0):
  rng = np.random.default_rng(seed)
  return ' '.join(str(n) for n in rng.integers(0, 10**6, count))


def _write(folder, texts):
  paths = []
  for number, text in enumerate(texts):
    paths.append(folder / f'{number:05}.txt')
    paths[-1].write_text(text)
  return [str(path) for path in paths]


def _held_out(paths, surveyed):
  """Returns the bytes of each split, counted from the source itself."""
  result = []
  for held_out in (False, True):
    part = document_source.Part(
      surveyed.share, held_out, surveyed.passage_bytes
    )
    source = document_source.DocumentFileSource(
      lambda split: paths, part=lambda split, part=part: part
    )
    examples = source.get_dataset('train', False).as_numpy_iterator()
    result.append([example['text'] for example in examples])
  return result


@pytest.mark.slow
@pytest.mark.parametrize(
  'texts',
  [
    [_words(1500), _words(150_000, 1)],  # 10 KB and 1 MB
    [_words(300, seed) for seed in range(500)],  # many small ones
    [_words(1500)],
    [*(_words(30, seed) for seed in range(200)), _words(9000)],
  ],
)
def test_some_of_any_corpus_is_held_out(tmp_path, texts):
  paths = _write(tmp_path, texts)
  surveyed = text_survey.survey(paths, OPTIONS, None)
  total = sum(map(len, texts))
  assert surveyed.files == surveyed.documents == len(texts)
  assert surveyed.num_bytes == surveyed.estimated_bytes == total
  assert surveyed.whole
  train, validation = _held_out(paths, surveyed)
  assert sum(map(len, train)) + sum(map(len, validation)) == total
  assert len(validation) == surveyed.held_out
  assert sum(map(len, validation)) == surveyed.held_out_bytes
  # 5 % of a small corpus, plus at most one passage.
  assert 0.05 <= surveyed.held_out_bytes / total < 0.17


def test_documents_of_a_large_corpus_stay_whole(tmp_path, monkeypatch):
  monkeypatch.setattr(text_survey, '_ENOUGH_BYTES', 1000)
  paths = _write(tmp_path, [_words(300, seed) for seed in range(200)])
  surveyed = text_survey.survey(paths, OPTIONS, None)
  assert (surveyed.share, surveyed.passage_bytes) == (0.01, None)


def test_a_given_share_is_used(tmp_path):
  paths = _write(tmp_path, [_words(30, seed) for seed in range(400)])
  surveyed = text_survey.survey(paths, OPTIONS, 0.25)
  assert (surveyed.share, surveyed.passage_bytes) == (0.25, None)
  _, validation = _held_out(paths, surveyed)
  assert len(validation) == surveyed.held_out
  assert 60 < len(validation) < 140


def test_copies_are_held_out_together(tmp_path):
  text = _words(50)
  paths = _write(tmp_path, [text] * 60 + [_words(50, n) for n in range(1, 61)])
  surveyed = text_survey.survey(paths, OPTIONS, None)
  train, validation = _held_out(paths, surveyed)
  assert not set(train) & set(validation)
  assert train


@pytest.mark.parametrize('texts', [[], ['one'], ['one'] * 300])
def test_unsplittable_text_is_all_for_training(tmp_path, texts):
  paths = _write(tmp_path, texts)
  assert text_survey.survey(paths, OPTIONS, None).held_out_bytes == 0


def test_a_large_corpus_is_read_in_part(tmp_path, monkeypatch):
  monkeypatch.setattr(text_survey, 'MAX_BYTES', 20_000)
  monkeypatch.setattr(text_survey, '_SAMPLE_BYTES', 5_000)
  texts = [_words(300, seed) for seed in range(100)]
  surveyed = text_survey.survey(_write(tmp_path, texts), OPTIONS, None)
  total = sum(map(len, texts))
  assert not surveyed.whole
  assert 20_000 <= surveyed.num_bytes < 23_000
  assert 0.95 < surveyed.estimated_bytes / total < 1.05
  assert 4_000 < sum(map(len, surveyed.sample)) < 8_000
  assert all(piece.decode() in ''.join(texts) for piece in surveyed.sample)


def test_bad_lines_stop_the_survey_or_are_counted(tmp_path):
  path = document_corpora.write(tmp_path / 'a.jsonl', range(5))
  path.write_bytes(path.read_bytes() + b'{"text": 1}\nnone\n')
  with pytest.raises(document_files.DocumentError, match=r'a\.jsonl.*6'):
    text_survey.survey([str(path)], OPTIONS, None)
  options = document_files.ReadOptions(skip_bad_documents=True)
  surveyed = text_survey.survey([str(path)], options, None)
  assert (surveyed.documents, surveyed.skipped) == (5, 2)
  texts = [json.loads(line)['text'] for line in path.open().readlines()[:5]]
  assert surveyed.num_bytes == sum(len(text.encode()) for text in texts)
