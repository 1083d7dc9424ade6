"""Masked LM: 15 % predicted, 80/10/10, loss weights exact, nothing lost."""

import gin
import numpy as np
import pytest
import seqio
import token_documents

from fnet_t5x.tasks import masked_lm

_FEATURES = masked_lm.features(token_documents.VOCABULARY)
_MASK, _CLS, _SEP = (token_documents.FIRST_SENTINEL - i for i in range(3))


def _lengths(length: int) -> dict[str, int]:
  return dict.fromkeys(_FEATURES, length)


def _examples(documents, length, seed=0, features=_FEATURES, **parameters):
  return token_documents.examples(
    masked_lm.masked_lm,
    documents,
    _lengths(length),
    seed=seed,
    features=features,
    **parameters,
  )


def test_targets_are_the_text_between_cls_and_sep():
  documents = token_documents.random_documents([100, 0, 1, 2, 62, 63])
  examples = _examples(documents, 64)
  texts = [e['targets'][1:-1] for e in examples]
  assert token_documents.joined(texts) == token_documents.joined(documents)
  assert max(map(len, texts)) == 62
  for e in examples:
    assert e['targets'][0] == _CLS
    assert e['targets'][-1] == _SEP
    assert len(e['inputs']) == len(e['targets']) == len(e['loss_weights'])


@pytest.mark.slow
@pytest.mark.parametrize(
  ('size', 'expected'), [(1, 1), (2, 1), (9, 1), (12, 2), (62, 9), (510, 76)]
)
def test_loss_weights_mark_predicted_tokens(size, expected):
  for seed in range(5):
    (e,) = _examples(
      token_documents.random_documents([size], seed), 512, seed=seed
    )
    weights = np.array(e['loss_weights'])
    assert set(weights) <= {0, 1}
    # round(0.15 size), at least one; never [CLS] or [SEP].
    assert weights.sum() == expected
    assert weights[0] == weights[-1] == 0
    changed = np.array(e['inputs']) != np.array(e['targets'])
    assert not changed[weights == 0].any()


def test_shares_are_80_10_10():
  documents = token_documents.random_documents([510] * 150)
  examples = _examples(documents, 512)
  inputs, targets, weights = (
    np.array([e[key] for e in examples])
    for key in ('inputs', 'targets', 'loss_weights')
  )
  predicted = weights == 1
  count = predicted.sum()
  assert count == 150 * 76
  hidden = inputs[predicted]
  random = (hidden != targets[predicted]) & (hidden != _MASK)
  # One in 256 random tokens equals the original.
  for share, p in (
    ((hidden == _MASK).mean(), 0.8),
    (random.mean(), 0.1 * 255 / 256),
    ((hidden == targets[predicted]).mean(), 0.1 + 0.1 / 256),
  ):
    assert abs(share - p) < 5 * (p * (1 - p) / count) ** 0.5
  # All bytes, nothing else, uniformly.
  counts = np.bincount(hidden[random], minlength=359)
  assert counts[:3].sum() + counts[259:].sum() == 0
  mean = random.sum() / 256
  assert np.abs(counts[3:259] - mean).max() < 5 * mean**0.5 + 1
  # All positions are predicted equally often.
  share = predicted[:, 1:-1].mean(0)
  p = 76 / 510
  assert np.abs(share - p).max() < 5 * (p * (1 - p) / 150) ** 0.5


def test_seeds_determine_the_mask():
  documents = token_documents.random_documents([300])
  assert _examples(documents, 64, 4) == _examples(documents, 64, 4)
  assert _examples(documents, 64, 4) != _examples(documents, 64, 5)


def test_gin_binds_every_parameter():
  gin.parse_config(
    'from __gin__ import dynamic_registration\n'
    'from fnet_t5x.tasks import masked_lm\n'
    'masked_lm.masked_lm:\n'
    '  noise_density = 1.0\n'
    '  mask_token_proportion = 0.0\n'
    '  random_token_proportion = 1.0\n'
    '  mask_id = 300\n'
    '  cls_id = 301\n'
    '  sep_id = 302\n'
  )
  (e,) = _examples(token_documents.random_documents([60]), 64)
  assert (e['targets'][0], e['targets'][-1]) == (301, 302)
  assert sum(e['loss_weights']) == 60
  assert 300 not in e['inputs']
  same = sum(a == b for a, b in zip(e['inputs'], e['targets'], strict=True))
  assert same < 10


def test_number_of_predicted_tokens_is_counted():
  (e,) = _examples(token_documents.random_documents([62]), 64)
  assert masked_lm.count_predicted_tokens('', e, is_target=True) == 9
  assert masked_lm.count_predicted_tokens('text', e) == 'text'


@pytest.mark.parametrize(
  ('parameters', 'message'),
  [
    ({'noise_density': 0.0}, 'noise_density is 0.0'),
    ({'mask_token_proportion': 0.95}, '0.95 and 0.1'),
    ({'random_token_proportion': -0.1}, '0.8 and -0.1'),
    ({'mask_id': 400}, 'mask_id is 400'),
    ({'mask_id': 300, 'cls_id': 300}, 'have the same id'),
    ({'length': 2}, 'at least 3'),
  ],
)
def test_bad_parameters_are_errors(parameters, message):
  length = parameters.pop('length', 8)
  with pytest.raises(ValueError, match=message):
    _examples([[3]], length, **parameters)


def test_features_of_different_lengths_are_an_error():
  with pytest.raises(ValueError, match=r"'loss_weights': 9.* the same length"):
    token_documents.examples(
      masked_lm.masked_lm,
      [[3]],
      {'inputs': 8, 'targets': 8, 'loss_weights': 9},
      features=_FEATURES,
    )


def test_too_few_sentinels_are_an_error():
  features = masked_lm.features(seqio.ByteVocabulary(extra_ids=2))
  with pytest.raises(
    ValueError, match=r'needs 3 sentinels for .*has 2: raise .*masked_lm.sep_id'
  ):
    _examples([[3]], 8, features=features)
  # Two are enough if one is set.
  assert _examples([[9]], 8, features=features, sep_id=4)
