"""Metric functions of classification and regression tasks.

Names, definitions and the scale, percent, are T5's (Raffel et al. 2020, arXiv
1910.10683, section 2.3 and appendix D; package t5 0.9.4).
"""

import collections
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

INVALID = -1  # The class of an output that is not a label.


def accuracy(
  targets: Sequence[Any], predictions: Sequence[Any]
) -> dict[str, float]:
  """Returns the share of predictions equal to their targets, in percent."""
  pairs = zip(targets, predictions, strict=True)
  return {'accuracy': 100 * float(np.mean([t == p for t, p in pairs]))}


def _confusion(
  targets: Sequence[int], predictions: Sequence[int]
) -> np.ndarray:
  """Returns counts [classes, classes] by target and prediction."""
  classes, indices = np.unique(
    np.concatenate([targets, predictions]), return_inverse=True
  )
  counts = np.zeros((len(classes), len(classes)), np.int64)
  rows, columns = np.split(indices, 2)
  np.add.at(counts, (rows, columns), 1)
  return counts


def matthews_corrcoef(
  targets: Sequence[int], predictions: Sequence[int]
) -> dict[str, float]:
  """Returns Matthews correlation, in percent, for any number of classes.

  Outputs that are not labels form a class of their own (INVALID), as in T5.
  The result is 0 if all targets or all predictions are in one class.

  Source: Gorodkin 2004, R_K of equation 8; for two classes Matthews 1975.
  """
  counts = _confusion(targets, predictions).astype(np.float64)
  true, predicted, total = counts.sum(1), counts.sum(0), counts.sum()
  covariance = np.trace(counts) * total - true @ predicted
  variances = (total**2 - true @ true) * (total**2 - predicted @ predicted)
  value = covariance / math.sqrt(variances) if variances else 0.0
  return {'matthews_corrcoef': 100 * float(value)}


def _f1_of_class(
  targets: np.ndarray, predictions: np.ndarray, label: int
) -> float:
  both = np.sum((targets == label) & (predictions == label))
  either = np.sum(targets == label) + np.sum(predictions == label)
  return float(2 * both / either) if either else 0.0


def binary_f1(
  targets: Sequence[int], predictions: Sequence[int]
) -> dict[str, float]:
  """Returns the F1 of class 1, in percent.

  An output that is not a label is always wrong: it counts as the class that
  the target is not, as in T5.

  Args:
    targets: 0 or 1.
    predictions: 0, 1 or INVALID.
  """
  targets, predictions = np.asarray(targets), np.asarray(predictions)
  predictions = np.where(predictions == INVALID, 1 - targets, predictions)
  return {'f1': 100 * _f1_of_class(targets, predictions, 1)}


def f1_accuracy_mean(
  targets: Sequence[int], predictions: Sequence[int]
) -> dict[str, float]:
  """Returns the mean of `binary_f1` and `accuracy`, in percent.

  The single number of MRPC and QQP in GLUE's and FNet's tables.
  """
  f1 = binary_f1(targets, predictions)['f1']
  accurate = accuracy(targets, predictions)['accuracy']
  return {'f1_accuracy_mean': (f1 + accurate) / 2}


def macro_f1_of_three(
  targets: Sequence[int], predictions: Sequence[int]
) -> dict[str, float]:
  """Returns the mean F1 of classes 0, 1 and 2, in percent."""
  targets, predictions = np.asarray(targets), np.asarray(predictions)
  scores = [_f1_of_class(targets, predictions, label) for label in range(3)]
  return {'mean_3class_f1': 100 * float(np.mean(scores))}


def correlations(
  targets: Sequence[float], predictions: Sequence[float]
) -> dict[str, float]:
  """Returns Pearson's and Spearman's correlation, in percent.

  Both are 0 if all targets or all predictions are equal.
  """
  import scipy.stats

  values = {'pearson_corrcoef': 0.0, 'spearman_corrcoef': 0.0}
  if len(set(targets)) > 1 and len(set(predictions)) > 1:
    values = {
      'pearson_corrcoef': scipy.stats.pearsonr(targets, predictions)[0],
      'spearman_corrcoef': scipy.stats.spearmanr(targets, predictions)[0],
    }
  return {name: 100 * float(value) for name, value in values.items()}


def groups(
  targets: Sequence[Mapping[str, Any]], predictions: Sequence[Any]
) -> dict[Hashable, list[tuple[Any, Any]]]:
  """Returns (target's value, prediction) pairs by group, in order."""
  grouped = collections.defaultdict(list)
  for target, prediction in zip(targets, predictions, strict=True):
    grouped[target['group']].append((target['value'], prediction))
  return grouped


def multirc(
  targets: Sequence[Mapping[str, Any]], predictions: Sequence[int]
) -> dict[str, float]:
  """Returns MultiRC's two metrics, in percent.

  Args:
    targets: the label of each answer in `value`, its question in `group`.
    predictions: labels, or INVALID.

  Returns:
    'f1' over all answers, and 'exact_match', the share of questions whose
    answers are all classified correctly.
  """
  grouped = groups(targets, predictions)
  right = [all(t == p for t, p in pairs) for pairs in grouped.values()]
  return {
    **binary_f1([t['value'] for t in targets], predictions),
    'exact_match': 100 * float(np.mean(right)),
  }
