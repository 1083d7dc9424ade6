"""Next-sentence pairs: labels, types, other documents, nothing lost."""

import gin
import numpy as np
import pytest
import tensorflow as tf
import token_documents

from fnet_t5x.tasks import next_sentence

_FEATURES = next_sentence.features(token_documents.VOCABULARY)
_CLS, _SEP = (token_documents.FIRST_SENTINEL - i for i in (1, 2))
# Tokens of the documents of `_pairs` encode their document and position.
_PER_DOCUMENT = 10_000


def _lengths(length: int) -> dict[str, int]:
  return {
    key: 1 if key == 'next_sentence_labels' else length for key in _FEATURES
  }


def _examples(documents, length, seed=0, **parameters):
  return token_documents.examples(
    next_sentence.masked_lm_nsp,
    documents,
    _lengths(length),
    seed=seed,
    features=_FEATURES,
    **parameters,
  )


def _pairs(
  sizes,
  max_tokens,
  sentence=0,
  probability=0.5,
  seed=0,
  second='other_document',
):
  """Returns (A, B, label) pairs; sentences have `sentence` tokens."""
  documents = tf.ragged.constant(
    [
      list(range(i * _PER_DOCUMENT, i * _PER_DOCUMENT + size))
      for i, size in enumerate(sizes)
    ],
    dtype=tf.int32,
  )
  table = np.zeros(len(sizes) * _PER_DOCUMENT, bool)
  if sentence:
    table[sentence - 1 :: sentence] = True
  pairs = next_sentence.pair_texts(
    documents, table, max_tokens, probability, tf.constant([seed, 3]), second
  )
  return list(
    zip(
      pairs['a'].to_list(),
      pairs['b'].to_list(),
      pairs['label'].numpy()[:, 0].tolist(),
      strict=True,
    )
  )


def _document(token: int) -> int:
  return token // _PER_DOCUMENT


_SIZES = [100, 2, 3, 33, 17, 16, 65, 66, 40, 31, 200, 2]


@pytest.mark.parametrize('sentence', [0, 5])
def test_every_text_occurs_once(sentence):
  for seed in range(10):
    pairs = _pairs(_SIZES, 16, sentence, seed=seed)
    tokens = token_documents.joined(a + b for a, b, _ in pairs)
    assert sorted(tokens) == token_documents.joined(
      range(i * _PER_DOCUMENT, i * _PER_DOCUMENT + n)
      for i, n in enumerate(_SIZES)
    )
    assert {label for _, _, label in pairs} == {0, 1}
    for a, b, label in pairs:
      assert a == list(range(a[0], a[0] + len(a)))
      assert b == list(range(b[0], b[0] + len(b)))
      if label:
        assert _document(a[0]) != _document(b[0])
      else:
        assert b[0] == a[-1] + 1
        assert _document(a[0]) == _document(b[0])
      if not (label and sentence):
        assert len(a) + len(b) <= 16


def test_half_of_the_pairs_are_random():
  labels = [
    label
    for seed in range(30)
    for _, _, label in _pairs([150] * 40, 30, seed=seed)
  ]
  # Swaps come in twos.
  assert len(labels) == 30 * 200
  deviation = (0.25 / (len(labels) / 2)) ** 0.5
  assert abs(np.mean(labels) - 0.5) < 5 * deviation


def test_labels_do_not_show_in_the_lengths():
  totals = {0: [], 1: []}
  for seed in range(40):
    for a, b, label in _pairs(_SIZES * 3, 16, seed=seed):
      totals[label].append(len(a) + len(b))
  zero, one = (np.array(totals[k]) for k in (0, 1))
  error = (zero.var() / len(zero) + one.var() / len(one)) ** 0.5
  assert abs(zero.mean() - one.mean()) < 5 * error


def test_pairs_are_split_at_sentence_ends():
  cuts = []
  for seed in range(20):
    for a, b, label in _pairs([600] * 4, 60, sentence=7, seed=seed):
      # A sentence ends every seven tokens, so within any sixty.
      assert (a[-1] + 1) % 7 == 0
      cuts.append(len(a))
      if label:
        assert (b[0]) % 7 == 0
        # Matched pieces are split at about the same point.
        assert len(a) + len(b) < 60 + 7
  assert min(cuts) < 8
  assert max(cuts) > 52


def test_without_sentence_ends_the_cut_is_anywhere():
  cuts = np.array(
    [
      len(a)
      for seed in range(60)
      for a, _, label in _pairs([300] * 6, 30, seed=seed)
      if not label
    ]
  )
  counts = np.bincount(cuts, minlength=30)
  assert counts[0] == 0
  assert len(counts) == 30
  # Matched pieces share a draw: twice the variance.
  mean = counts.sum() / 29
  assert np.abs(counts[1:] - mean).max() < 5 * (2 * mean) ** 0.5


def test_a_document_is_never_paired_with_itself():
  for a, b, label in [*_pairs([800, 10], 16), *_pairs([300], 16)]:
    assert label == (_document(a[0]) != _document(b[0]))
  assert {label for _, _, label in _pairs([300], 16)} == {0}


@pytest.mark.parametrize(('probability', 'label'), [(0.0, 0), (1.0, 1)])
def test_probability_of_a_random_next(probability, label):
  pairs = _pairs([60] * 8, 20, probability=probability)
  assert {x for _, _, x in pairs} == {label}


def test_examples_have_bert_s_form():
  documents = token_documents.random_documents([300, 0, 1, 2, 40, 61, 150, 77])
  examples = _examples(documents, 32)
  for e in examples:
    targets = e['targets']
    assert targets[0] == _CLS
    first, last = (i for i, t in enumerate(targets) if t == _SEP)
    assert last == len(targets) - 1
    assert 1 < first < last - 1
    assert e['type_ids'] == [0] * (first + 1) + [1] * (last - first)
    assert len(targets) <= 32
    assert e['next_sentence_labels'] in ([0], [1])
    weights = np.array(e['loss_weights'])
    assert weights[[0, first, last]].sum() == 0
    assert weights.sum() == max(1, round(0.15 * (len(targets) - 3)))
    changed = np.array(e['inputs']) != np.array(targets)
    assert not changed[weights == 0].any()
  assert {e['next_sentence_labels'][0] for e in examples} == {0, 1}
  # One-token documents are dropped, and a swapped B may be truncated.
  text = sum(len(e['targets']) - 3 for e in examples)
  assert 0.95 * (sum(map(len, documents)) - 1) < text
  assert text < sum(map(len, documents))


def test_true_pairs_are_text_of_the_documents():
  documents = token_documents.random_documents([200] * 6)
  texts = [bytes(t - 3 for t in d) for d in documents]
  for e in _examples(documents, 40):
    a, b, _ = ''.join(map(chr, e['targets'][1:])).split(chr(_SEP))
    a, b = (bytes(ord(c) - 3 for c in part) for part in (a, b))
    together = any(a + b in text for text in texts)
    assert together == (e['next_sentence_labels'] == [0])
    assert all(any(part in text for text in texts) for part in (a, b))


def test_seeds_determine_the_pairs():
  documents = token_documents.random_documents([300, 200])
  assert _examples(documents, 64, 4) == _examples(documents, 64, 4)
  assert _examples(documents, 64, 4) != _examples(documents, 64, 5)


def test_gin_binds_parameters():
  gin.parse_config(
    'from __gin__ import dynamic_registration\n'
    'from fnet_t5x.tasks import next_sentence\n'
    'next_sentence.masked_lm_nsp:\n'
    '  noise_density = 1.0\n'
    '  mask_token_proportion = 1.0\n'
    '  random_token_proportion = 0.0\n'
    '  random_next_probability = 0.0\n'
    '  mask_id = 300\n'
    '  cls_id = 301\n'
    '  sep_id = 302\n'
  )
  for e in _examples(token_documents.random_documents([90, 80]), 64):
    assert set(e['inputs']) == {300, 301, 302}
    assert e['next_sentence_labels'] == [0]


def test_one_document_per_batch_has_true_pairs_only():
  documents = token_documents.random_documents([90] * 5)
  examples = _examples(documents, 32, batch_size=1)
  assert {e['next_sentence_labels'][0] for e in examples} == {0}


def test_label_of_another_length_is_an_error():
  lengths = {**_lengths(32), 'next_sentence_labels': 32}
  with pytest.raises(ValueError, match=r"'next_sentence_labels' 32; .* to 1"):
    token_documents.examples(
      next_sentence.masked_lm_nsp, [[3, 4]], lengths, features=_FEATURES
    )
  with pytest.raises(ValueError, match='same length, at least 6'):
    _examples([[3, 4]], 5)


def test_swapped_pairs_are_the_two_parts_in_the_other_order():
  labels = []
  for seed in range(10):
    pairs = _pairs(_SIZES, 16, sentence=5, seed=seed, second='swapped')
    tokens = token_documents.joined(a + b for a, b, _ in pairs)
    assert sorted(tokens) == token_documents.joined(
      range(i * _PER_DOCUMENT, i * _PER_DOCUMENT + n)
      for i, n in enumerate(_SIZES)
    )
    for a, b, label in pairs:
      first, second = (b, a) if label else (a, b)
      whole = [*first, *second]
      assert whole == list(range(whole[0], whole[0] + len(whole)))
      labels.append(label)
  assert abs(np.mean(labels) - 0.5) < 5 * (0.25 / len(labels)) ** 0.5


@pytest.mark.parametrize(
  ('parameters', 'named'),
  [
    ({'second_text': 'previous'}, "second_text='previous'.*swapped"),
    ({'max_predictions': 4}, 'MAX_PREDICTIONS is 4.* raise it to 5'),
  ],
)
def test_second_text_and_predictions_are_checked(parameters, named):
  with pytest.raises(ValueError, match=named):
    # 0.15 of 35 - 3 tokens is 4.8.
    _examples([[3, 4, 5]], 35, **parameters)
