"""BART's noise: 30 %, Poisson spans, one mask each, permuted sentences."""

import collections
import itertools
import math

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf
import token_documents

from fnet_t5x.tasks import text_infilling

_LENGTHS = {'inputs': 64, 'targets': 64}
_MASK = token_documents.FIRST_SENTINEL


def _infilled(length: int, draws: int) -> list[list[int]]:
  """Returns corrupted forms of 0, 1, 2..., with -1 for masks."""
  made = tf.data.Dataset.range(draws).map(
    lambda i: text_infilling.fill_in(
      tf.range(length),
      0.3,
      3.0,
      -1,
      tf.stack([tf.stack([i, i + 3]), tf.stack([i + 9, 2 * i])]),
    )
  )
  return [tokens.tolist() for tokens in made.as_numpy_iterator()]


def _simulated(rng, length: int, mean: float = 3.0) -> list[int]:
  """The same by definition, one step at a time."""
  left = max(1, round(0.3 * length))
  spans = []
  while left:
    spans.append(min(rng.poisson(mean), left))
    left -= spans[-1]
  order = [None] * (length - sum(spans)) + spans
  noisy, token = [], 0
  for i in rng.permutation(len(order)):
    if order[i] is None:
      noisy.append(token)
      token += 1
    else:
      noisy.append(-1)
      token += order[i]
  return noisy


@pytest.mark.parametrize('length', [1, 2, 3, 10, 41, 511])
def test_the_right_number_is_masked(length):
  hidden = max(1, round(0.3 * length))
  for noisy in _infilled(length, 30):
    kept = [t for t in noisy if t >= 0]
    assert kept == sorted(set(kept))
    assert len(kept) == length - hidden
    # Where tokens are missing there is a mask.
    token = -1
    masks = 0
    for t in [*noisy, length]:
      if t < 0:
        masks += 1
        continue
      assert masks or t == token + 1
      token, masks = t, 0


def test_positions_and_numbers_of_masks_equal_a_simulation():
  length, draws = 40, 4000
  rng = np.random.default_rng(2)
  statistics = []
  for made in (
    _infilled(length, draws),
    [_simulated(rng, length) for _ in range(draws)],
  ):
    kept = np.zeros([draws, length])
    for row, noisy in zip(kept, made, strict=True):
      row[[t for t in noisy if t >= 0]] = 1
    masks = np.array([noisy.count(-1) for noisy in made])
    first = np.array([noisy[0] == -1 for noisy in made])
    twice = np.array(
      [any(a == b == -1 for a, b in itertools.pairwise(x)) for x in made]
    )
    statistics.append(
      np.column_stack([kept, masks, masks**2, first, twice]).astype(float)
    )
  ours, theirs = statistics
  error = np.sqrt((ours.var(0) + theirs.var(0)) / draws)
  assert (np.abs(ours.mean(0) - theirs.mean(0)) < 5 * error).all()


def test_span_lengths_are_poisson():
  draws, spans = 1000, 8
  lengths = np.array(
    list(
      tf.data.Dataset.range(draws)
      .map(
        lambda i: text_infilling.poisson_span_lengths(
          tf.constant(150), 3.0, tf.stack([i, i + 5])
        )[:spans]
      )
      .as_numpy_iterator()
    )
  )
  counts = collections.Counter(lengths.ravel().tolist())
  total = draws * spans
  assert abs(lengths.mean() - 3) < 5 * (3 / total) ** 0.5
  for k in range(9):
    p = math.exp(-3) * 3**k / math.factorial(k)
    assert abs(counts[k] / total - p) < 5 * (p * (1 - p) / total) ** 0.5


@pytest.mark.parametrize('poisson_lambda', [0.2, 3.0, 40.0])
@pytest.mark.parametrize('total', [1, 7, 150])
def test_span_lengths_add_up(poisson_lambda, total):
  for seed in range(20):
    lengths = text_infilling.poisson_span_lengths(
      tf.constant(total), poisson_lambda, tf.constant([seed, 1])
    ).numpy()
    assert lengths.sum() == total
    assert lengths.min() >= 0
    assert lengths[-1] > 0


def test_targets_are_the_text_and_inputs_are_corrupted():
  documents = token_documents.random_documents([400, 0, 1, 63, 64, 200])
  examples = token_documents.examples(
    text_infilling.text_infilling, documents, _LENGTHS
  )
  assert token_documents.joined(
    e['targets'] for e in examples
  ) == token_documents.joined(documents)
  for example in examples:
    inputs, targets = (
      collections.Counter(example[k]) for k in ('inputs', 'targets')
    )
    length = len(example['targets'])
    assert 1 <= length <= 63
    assert inputs.pop(_MASK) >= 1
    assert inputs <= targets
    assert (targets - inputs).total() == max(1, round(0.3 * length))
  assert {'inputs': [_MASK], 'targets': documents[2]} in [
    {'inputs': e['inputs'][-1:], 'targets': e['targets']} for e in examples
  ]


@pytest.mark.parametrize('permute', [True, False])
def test_sentences_of_the_inputs_are_permuted(permute):
  vocabulary = token_documents.VOCABULARY
  # No letter occurs twice.
  sentences = ['abcdefg.', 'hijklmno!', 'pqrstuvw?', 'xyzABCDEF']
  document = vocabulary.encode(''.join(sentences))
  moved = 0
  for example in token_documents.examples(
    text_infilling.text_infilling,
    [document] * 20,
    _LENGTHS,
    permute_sentences=permute,
  ):
    assert example['targets'] == document
    text = vocabulary.decode([t for t in example['inputs'] if t != _MASK])
    belongs = [next(i for i, s in enumerate(sentences) if c in s) for c in text]
    order = list(dict.fromkeys(belongs))
    # Sentences stay whole, with their letters in order.
    assert belongs == sorted(belongs, key=order.index)
    assert text == ''.join(c for i in order for c in sentences[i] if c in text)
    moved += order != sorted(order)
  assert (moved > 10) if permute else (moved == 0)


def test_seeds_determine_the_noise():
  def made(seed):
    return token_documents.examples(
      text_infilling.text_infilling,
      token_documents.random_documents([300]),
      _LENGTHS,
      seed=seed,
    )

  assert made(4) == made(4)
  assert made(4) != made(5)


def _ascending_examples(count: int = 200) -> list[dict[str, list[int]]]:
  """Of documents of 60 tokens, 3 to 62."""
  return token_documents.examples(
    text_infilling.text_infilling, [list(range(3, 63))] * count, _LENGTHS
  )


def test_gin_binds_every_parameter():
  gin.parse_config(
    'from __gin__ import dynamic_registration\n'
    'from fnet_t5x.tasks import text_infilling\n'
    'text_infilling.text_infilling:\n'
    '  noise_density = 0.5\n'
    '  poisson_lambda = 1.0\n'
    '  permute_sentences = False\n'
    '  mask_id = 300\n'
  )
  for example in _ascending_examples():
    kept = [t for t in example['inputs'] if t != 300]
    assert len(kept) == 30
    assert kept == sorted(kept)
    assert example['targets'] == list(range(3, 63))


@pytest.mark.parametrize(
  ('bindings', 'mean'),
  [('', 3.0), ('text_infilling.poisson_lambda = 1.5', 1.5)],
)
def test_number_of_masks_equals_a_simulation(bindings, mean):
  gin.parse_config(
    'from __gin__ import dynamic_registration\n'
    'from fnet_t5x.tasks import text_infilling\n'
    + (bindings and f'text_infilling.{bindings}')
  )
  ours = [e['inputs'].count(_MASK) for e in _ascending_examples()]
  rng = np.random.default_rng(3)
  theirs = [_simulated(rng, 60, mean).count(-1) for _ in range(4000)]
  error = (np.var(theirs) / len(ours)) ** 0.5
  assert abs(np.mean(ours) - np.mean(theirs)) < 5 * error


@pytest.mark.parametrize(
  ('parameters', 'message'),
  [
    ({'noise_density': 0.0}, 'noise_density is 0.0'),
    ({'noise_density': 1.0}, 'noise_density is 1.0'),
    ({'poisson_lambda': 0.0}, 'poisson_lambda is 0.0'),
    ({'mask_id': 359}, r'mask_id is 359; .* between 1 and 358'),
    ({'lengths': {'inputs': 0, 'targets': 4}}, "'inputs' is 0"),
    ({'lengths': {'inputs': 9, 'targets': 0}}, "'targets' is 0"),
  ],
)
def test_bad_parameters_are_errors(parameters, message):
  lengths = parameters.pop('lengths', _LENGTHS)
  with pytest.raises(ValueError, match=message):
    token_documents.examples(
      text_infilling.text_infilling, [[3]], lengths, **parameters
    )


def test_no_sentinel_is_an_error():
  feature = seqio.Feature(seqio.ByteVocabulary())
  with pytest.raises(
    ValueError, match=r'needs 1 sentinels .* has 0: raise its extra_ids, or set'
  ):
    token_documents.examples(
      text_infilling.text_infilling,
      [[3]],
      _LENGTHS,
      features={'inputs': feature, 'targets': feature},
    )
