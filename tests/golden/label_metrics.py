"""Reference metrics of scikit-learn and SciPy, for label_metrics_test.

  python tests/golden/label_metrics.py > tests/golden/label_metrics.json

Generated with scikit-learn 1.9.1 and SciPy 1.17.1, on labels drawn from seeds.
"""

import json
import random
import sys

SEEDS = range(6)


def labels(seed: int, classes: int = 2) -> tuple[list[int], list[int]]:
  """Returns targets and predictions, about half of them equal."""
  rng = random.Random(seed)
  size = rng.randint(20, 200)
  targets = [rng.randrange(classes) for _ in range(size)]
  predictions = [
    t if rng.random() < 0.5 else rng.randrange(classes) for t in targets
  ]
  return targets, predictions


def scores(seed: int) -> tuple[list[float], list[float]]:
  """Returns targets with ties, as those of STS-B, and related predictions."""
  rng = random.Random(seed)
  targets = [rng.randint(0, 25) / 5 for _ in range(rng.randint(20, 200))]
  return targets, [t + rng.gauss(0, 1 + seed) for t in targets]


def reference(seed: int) -> dict[str, float]:
  """Returns the libraries' values, as fractions."""
  import scipy.stats
  import sklearn.metrics

  targets, predictions = labels(seed)
  of_three = labels(seed, 3)
  numbers = scores(seed)
  return {
    'matthews_corrcoef': sklearn.metrics.matthews_corrcoef(
      targets, predictions
    ),
    'matthews_corrcoef_of_three': sklearn.metrics.matthews_corrcoef(*of_three),
    'f1': sklearn.metrics.f1_score(targets, predictions),
    'accuracy': sklearn.metrics.accuracy_score(targets, predictions),
    'pearson_corrcoef': scipy.stats.pearsonr(*numbers).statistic,
    'spearman_corrcoef': scipy.stats.spearmanr(*numbers).statistic,
  }


if __name__ == '__main__':
  values = [
    {name: float(value) for name, value in reference(seed).items()}
    for seed in SEEDS
  ]
  json.dump(values, sys.stdout, indent=2)
  print()
