"""Objectives: T5's examples token for token, nothing lost, gin, bad input."""

import fractions
import functools
import json
import math

import gin
import numpy as np
import pytest
import seqio
import token_documents
from checkout import GOLDEN_DIR

from fnet_t5x.tasks import catalog, objectives

_GOLDEN = json.loads((GOLDEN_DIR / 't5_objectives.json').read_text())


def _restored(example) -> list[int]:
  """Reconstructs the text from corrupted spans, by reading the sentinels."""
  spans, current = {}, None
  for token in example['targets']:
    if token > token_documents.FIRST_SENTINEL - 100:
      current = spans.setdefault(token, [])
    else:
      current.append(token)
  text = []
  kept_spans = [[]]
  for token in example['inputs']:
    if token > token_documents.FIRST_SENTINEL - 100:
      kept_spans.append([])
    else:
      kept_spans[-1].append(token)
  # A one-token text has a sentinel and no noise.
  noise_spans = [spans[s] for s in sorted(spans, reverse=True) if spans[s]]
  for kept, missing in zip(kept_spans, [*noise_spans, []], strict=True):
    text += kept + missing
  return text


@pytest.mark.parametrize('case', _GOLDEN['cases'], ids=lambda c: c['objective'])
def test_examples_equal_those_of_t5(case):
  if case['gin']:
    gin.parse_config(f'noise.{case["gin"]}')
  examples = token_documents.examples(
    getattr(objectives, case['objective']),
    _GOLDEN['documents'],
    case['sequence_length'],
    seed=_GOLDEN['seed'],
    **case['parameters'],
  )
  assert len(examples) > 5
  assert examples == case['examples']


@pytest.mark.parametrize(
  ('name', 'lengths'),
  [
    ('fnet_sotu_span_corruption', {'inputs': 512, 'targets': 114}),
    ('fnet_sotu_span_corruption', {'inputs': 64, 'targets': 64}),
    ('fnet_sotu_prefix_lm', {'inputs': 512, 'targets': 512}),
  ],
)
def test_tasks_equal_live_t5(name, lengths):
  t5 = pytest.importorskip(
    't5.data.preprocessors', reason='needs t5 0.9.4 (pip install --no-deps t5)'
  )
  task = catalog.get(name)
  theirs = getattr(t5, name.removeprefix('fnet_sotu_'))
  ours = getattr(objectives, name.removeprefix('fnet_sotu_'))
  swapped = [theirs if p is ours else p for p in task.preprocessors]
  assert theirs in swapped
  oracle = task.replace(preprocessors=swapped)
  expected, actual = (
    t.get_dataset(lengths, 'train', seed=3).as_numpy_iterator()
    for t in (oracle, task)
  )
  count = 0
  for a, b in zip(expected, actual, strict=True):
    np.testing.assert_array_equal(a['inputs'], b['inputs'])
    np.testing.assert_array_equal(a['targets'], b['targets'])
    count += 1
  assert count > 4000


@pytest.mark.parametrize('merge', [True, False])
def test_span_corruption_keeps_every_token(merge):
  documents = token_documents.random_documents([400, 1, 33, 0, 256, 2, 77])
  examples = token_documents.examples(
    objectives.span_corruption,
    documents,
    {'inputs': 48, 'targets': 20},
    merge_examples_to_reduce_padding=merge,
  )
  assert token_documents.joined(documents) == token_documents.joined(
    map(_restored, examples)
  )


@pytest.mark.slow
def test_prefix_lm_keeps_every_token():
  documents = token_documents.random_documents([400, 1, 33, 0, 256, 2, 77])
  examples = token_documents.examples(
    objectives.prefix_lm, documents, {'inputs': 50, 'targets': 50}
  )
  segments = [e['inputs'] + e['targets'] for e in examples]
  assert token_documents.joined(documents) == token_documents.joined(segments)
  assert max(map(len, segments)) == 49
  # 400 = 8 * 49 + 8: documents are not concatenated.
  assert [len(s) for s in segments[:10]] == [49] * 8 + [8, 1]


@pytest.mark.parametrize('prefix_length', [None, 16])
def test_fixed_prefix_lm_splits_at_prefix_length(prefix_length):
  documents = token_documents.random_documents([400, 1, 33, 0, 256, 2, 77])
  examples = token_documents.examples(
    objectives.fixed_prefix_lm,
    documents,
    {'inputs': 41, 'targets': 25},
    prefix_length=prefix_length,
  )
  # Without EOS, 40 and 24 tokens fit.
  prefix, targets = prefix_length or 40, 24
  segments = [e['inputs'] + e['targets'] for e in examples]
  assert token_documents.joined(documents) == token_documents.joined(segments)
  expected = []
  for document in documents:
    while document:
      size = len(document[: prefix + targets])
      if size == prefix + targets:
        expected.append((prefix, targets))
      else:
        share = fractions.Fraction(size * prefix, prefix + targets)
        cut = min(
          max(math.floor(share + fractions.Fraction(1, 2)), 1), size - 1
        )
        expected.append((cut, size - cut))
      document = document[size:]
  sizes = [(len(e['inputs']), len(e['targets'])) for e in examples]
  assert sizes == expected
  assert (0, 1) in sizes
  assert (1, 1) in sizes


def test_full_examples_just_fill_the_features():
  tokens, targets = objectives.span_corruption_lengths(512)
  assert (tokens, targets) == (568, 114)
  examples = token_documents.examples(
    objectives.span_corruption,
    token_documents.random_documents([568 * 20]),
    {'inputs': 512, 'targets': 114},
  )
  assert len(examples) == 20
  # One less than the feature lengths: EOS is appended later.
  assert {len(e['inputs']) for e in examples} == {511}
  assert {len(e['targets']) for e in examples} == {113}


def test_sentinels_count_down_from_the_top():
  (example,) = token_documents.examples(
    objectives.span_corruption,
    token_documents.random_documents([100]),
    {'inputs': 128, 'targets': 32},
  )
  for feature, first_is_sentinel in (('inputs', False), ('targets', True)):
    sentinels = [t for t in example[feature] if t >= 259]
    # 15 noise tokens in 5 spans.
    assert sentinels == list(
      range(
        token_documents.FIRST_SENTINEL, token_documents.FIRST_SENTINEL - 5, -1
      )
    )
    assert (example[feature][0] >= 259) == first_is_sentinel
  assert len(example['targets']) == 15 + 5


def test_prefixes_are_uniform():
  examples = token_documents.examples(
    objectives.prefix_lm,
    token_documents.random_documents([20 * 2000] * 2),
    {'inputs': 21, 'targets': 21},
  )
  counts = np.bincount([len(e['inputs']) for e in examples], minlength=20)
  assert counts[0] == 0
  assert len(counts) == 20
  # 4,000 draws over 19 lengths: 5 standard deviations.
  expected = 4000 / 19
  assert np.abs(counts[1:] - expected).max() < 5 * expected**0.5


def test_features_pass_through():
  dataset = token_documents.dataset(
    token_documents.random_documents([60, 30])
  ).enumerate()
  dataset = dataset.map(lambda i, x: {**x, 'document': i, 'other': i})
  with seqio.map_seed_manager(0):
    dataset = objectives.span_corruption(
      dataset,
      {'inputs': 24, 'targets': 24},
      token_documents.FEATURES,
      merge_examples_to_reduce_padding=False,
      passthrough_feature_keys=['document'],
    )
  examples = list(dataset.as_numpy_iterator())
  assert {tuple(sorted(e)) for e in examples} == {
    ('document', 'inputs', 'targets')
  }
  assert [e['document'] for e in examples] == [0, 0, 0, 1, 1]


def test_gin_binds_after_registration(small_corpus):
  task = catalog.get('fnet_sotu_span_corruption')
  lengths = {'inputs': 100, 'targets': 100}

  def missing_share():
    dataset = task.get_dataset(lengths, 'train', shuffle=False, seed=0)
    first = next(dataset.as_numpy_iterator())
    bottom = task.output_features['targets'].vocabulary.vocab_size - 100
    missing = sum(first['targets'] > 1) - sum(first['targets'] >= bottom)
    kept = sum(first['inputs'] > 1) - sum(first['inputs'] >= bottom)
    return missing / (missing + kept)

  assert missing_share() == pytest.approx(0.15, abs=0.01)
  gin.parse_config(
    'from __gin__ import dynamic_registration\n'
    'from fnet_t5x.tasks import objectives\n'
    'objectives.span_corruption.noise_density = 0.4\n'
  )
  assert missing_share() == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize(
  'name', ['span_corruption', 'prefix_lm', 'fixed_prefix_lm']
)
@pytest.mark.parametrize('length', [0, -3, None])
def test_invalid_length_is_an_error(name, length):
  lengths = {'inputs': 64, 'targets': length}
  with pytest.raises(ValueError, match=r"'targets' is .*TASK_FEATURE_LENGTHS"):
    token_documents.examples(getattr(objectives, name), [[3, 4]], lengths)


@pytest.mark.parametrize(
  ('objective', 'lengths', 'parameters', 'message'),
  [
    ('span_corruption', (512, 113), {}, 'raise it to 114'),
    (
      'span_corruption',
      (512, 512),
      {'mean_noise_span_length': 1.0, 'noise_density': 0.3},
      'needs 1[0-9]{2} sentinels, the vocabulary has 100',
    ),
    (
      'span_corruption',
      (64, 64),
      {'passthrough_feature_keys': ['document']},
      'merge_examples_to_reduce_padding = False',
    ),
    (
      'span_corruption',
      (64, 64),
      {
        'passthrough_feature_keys': ['targets'],
        'merge_examples_to_reduce_padding': False,
      },
      'passthrough_feature_keys',
    ),
    ('prefix_lm', (64, 64), {'noise_density': 0.6}, 'at most 0.5'),
    ('prefix_lm', (2, 2), {}, "'inputs' .* at least 3"),
    ('span_corruption', (1, 9), {}, "'inputs' .*TASK_FEATURE_LENGTHS"),
    ('fixed_prefix_lm', (9, 9), {'prefix_length': 9}, 'is 9, .* room for 8'),
    ('fixed_prefix_lm', (9, 1), {}, "0 target tokens .*'targets': 1"),
  ],
)
def test_bad_parameters_are_errors(objective, lengths, parameters, message):
  with pytest.raises(ValueError, match=message):
    token_documents.examples(
      getattr(objectives, objective),
      token_documents.random_documents([99]),
      {'inputs': lengths[0], 'targets': lengths[1]},
      **parameters,
    )


def test_two_vocabularies_are_an_error():
  features = {
    **token_documents.FEATURES,
    'inputs': seqio.Feature(seqio.ByteVocabulary(7)),
  }
  objective = functools.partial(
    objectives.prefix_lm,
    sequence_length={'inputs': 9, 'targets': 9},
    output_features=features,
  )
  with pytest.raises(ValueError, match="vocabularies of 'inputs' and 'targets"):
    objective(token_documents.dataset([[3, 4]]))
