"""Metrics of labels and numbers, against definitions and by hand."""

import importlib.util
import json
import pathlib
import random

import numpy as np
import pytest

from fnet_t5x.tasks import label_metrics


def _labels(seed, classes, invalid=False, size=60):
  rng = random.Random(seed)
  targets = [rng.choice(classes) for _ in range(size)]
  noisy = [*classes, label_metrics.INVALID] if invalid else classes
  predictions = [
    t if rng.random() < 0.5 else rng.choice(noisy) for t in targets
  ]
  return targets, predictions


def _one_hot(labels):
  """Returns centered indicators [examples, classes], with INVALID a class."""
  hot = np.float64(np.array(labels)[:, None] == np.arange(-1, 3))
  return hot - hot.mean(0)


@pytest.mark.parametrize('invalid', [False, True])
@pytest.mark.parametrize('classes', [[0, 1], [0, 1, 2]])
def test_matthews_is_a_correlation_of_indicators(classes, invalid):
  targets, predictions = _labels(3, classes, invalid)
  x, y = _one_hot(targets), _one_hot(predictions)
  # Gorodkin 2004, equation 3.
  expected = np.sum(x * y) / np.sqrt(np.sum(x * x) * np.sum(y * y))
  assert 0.2 < expected < 0.8
  assert label_metrics.matthews_corrcoef(targets, predictions) == {
    'matthews_corrcoef': pytest.approx(100 * expected)
  }


def test_matthews_of_two_classes_by_hand():
  # 3 true positives, 2 true negatives, 1 false positive, 2 misses.
  targets = [1, 1, 1, 0, 0, 0, 1, 1]
  predictions = [1, 1, 1, 0, 0, 1, 0, 0]
  expected = (3 * 2 - 1 * 2) / np.sqrt((3 + 1) * (3 + 2) * (2 + 1) * (2 + 2))
  assert label_metrics.matthews_corrcoef(targets, predictions) == {
    'matthews_corrcoef': pytest.approx(100 * expected)
  }
  assert label_metrics.accuracy(targets, predictions) == {'accuracy': 62.5}


def test_matthews_is_0_where_it_is_undefined():
  for case in (([0, 1, 0], [1, 1, 1]), ([1, 1], [1, 0]), ([1], [1])):
    assert label_metrics.matthews_corrcoef(*case) == {'matthews_corrcoef': 0}


def _f1(targets, predictions, label):
  """Harmonic mean of precision and recall."""
  hits = sum(t == p == label for t, p in zip(targets, predictions, strict=True))
  if not hits:
    return 0
  precision = hits / predictions.count(label)
  recall = hits / targets.count(label)
  return 2 / (1 / precision + 1 / recall)


def test_f1_is_the_mean_of_precision_and_recall():
  targets, predictions = _labels(4, [0, 1])
  assert label_metrics.binary_f1(targets, predictions) == {
    'f1': pytest.approx(100 * _f1(targets, predictions, 1))
  }
  # A class that is never predicted counts 0 in the mean.
  for seed, predicted in ((5, [0, 1, 2]), (6, [0, 1])):
    targets, predictions = _labels(seed, [0, 1, 2], invalid=True)
    predictions = [
      p if p in predicted else label_metrics.INVALID for p in predictions
    ]
    scores = [_f1(targets, predictions, label) for label in range(3)]
    assert label_metrics.macro_f1_of_three(targets, predictions) == {
      'mean_3class_f1': pytest.approx(100 * sum(scores) / 3)
    }


def test_invalid_output_is_always_wrong():
  # 1 true positive; the invalid outputs are a false positive and a miss.
  targets, predictions = [0, 1, 1, 0], [-1, 1, -1, 0]
  assert label_metrics.binary_f1(targets, predictions) == {
    'f1': pytest.approx(50)
  }
  assert label_metrics.binary_f1([0, 0], [0, 0]) == {'f1': 0}


def test_correlations_by_hand():
  targets, predictions = [1.0, 2.0, 3.0, 5.0], [1.0, 3.0, 2.0, 4.0]
  pearson = np.corrcoef(targets, predictions)[0, 1]
  # Ranks 1 2 3 4 and 1 3 2 4: 1 - 6 (1 + 1) / (4 (16 - 1)).
  assert label_metrics.correlations(targets, predictions) == {
    'pearson_corrcoef': pytest.approx(100 * pearson),
    'spearman_corrcoef': pytest.approx(80),
  }
  assert label_metrics.correlations(targets, [-1.0] * 4) == {
    'pearson_corrcoef': 0,
    'spearman_corrcoef': 0,
  }


def test_multirc_counts_answers_and_whole_questions():
  targets = [
    {'value': value, 'group': group}
    for value, group in [(1, 'a'), (0, 'b'), (1, 'a'), (0, 'b'), (1, 'c')]
  ]
  predictions = [1, 0, 1, 1, -1]
  # 2 true positives, 1 false positive, 1 miss; only question a is right.
  assert label_metrics.multirc(targets, predictions) == {
    'f1': pytest.approx(200 / 3),
    'exact_match': pytest.approx(100 / 3),
  }


_GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'


def _golden():
  """Returns the module that generated the reference values."""
  spec = importlib.util.spec_from_file_location(
    'golden_label_metrics', _GOLDEN / 'label_metrics.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _ours(seed):
  """Returns our values of the metrics that the golden file has."""
  golden = _golden()
  targets, predictions = golden.labels(seed)
  of_three = label_metrics.matthews_corrcoef(*golden.labels(seed, 3))
  return {
    **label_metrics.matthews_corrcoef(targets, predictions),
    'matthews_corrcoef_of_three': of_three['matthews_corrcoef'],
    **label_metrics.binary_f1(targets, predictions),
    **label_metrics.accuracy(targets, predictions),
    **label_metrics.correlations(*golden.scores(seed)),
  }


def _percent(values):
  return {
    name: pytest.approx(100 * value, rel=1e-12, abs=1e-12)
    for name, value in values.items()
  }


def test_values_are_those_of_scikit_learn_and_scipy():
  values = json.loads((_GOLDEN / 'label_metrics.json').read_text())
  assert len({value['f1'] for value in values}) == len(values) == 6
  for seed, value in enumerate(values):
    assert _ours(seed) == _percent(value)


def test_values_are_those_of_the_installed_libraries():
  pytest.importorskip('sklearn')
  for seed in range(100, 110):
    assert _ours(seed) == _percent(_golden().reference(seed))


def test_mean_of_f1_and_accuracy():
  targets, predictions = _labels(4, [0, 1])
  f1 = label_metrics.binary_f1(targets, predictions)['f1']
  accurate = label_metrics.accuracy(targets, predictions)['accuracy']
  assert f1 != pytest.approx(accurate)
  assert label_metrics.f1_accuracy_mean(targets, predictions) == {
    'f1_accuracy_mean': pytest.approx((f1 + accurate) / 2)
  }
