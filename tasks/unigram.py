"""The loss of a model that knows word frequencies and nothing else.

A network that has learnt anything from context is below it.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from fnet_t5x.tasks import catalog


def _targets(
  task, feature_lengths: Mapping[str, int], split: str, seed: int
) -> Iterator[np.ndarray]:
  examples = task.get_dataset(
    feature_lengths, split=split, shuffle=False, seed=seed, num_epochs=1
  )
  for example in examples.as_numpy_iterator():
    yield example['targets']


def unigram_loss(
  name: str, feature_lengths: Mapping[str, int], seed: int = 0
) -> float:
  """Validation loss of token frequencies counted on the training targets.

  p(token) = (count + 1) / (tokens + vocabulary size), counted over one epoch of
  the training split, as the task makes it with these lengths. Weighted as the
  validation loss is: every target token counts once, EOS included, padding not.

  Args:
    name: task or mixture.
    feature_lengths: length in tokens by feature (TASK_FEATURE_LENGTHS).
    seed: seed of the objective's random draws, in both splits.

  Returns:
    Nats per target token.

  Raises:
    ValueError: unknown task, impossible lengths, or no target in a split.
  """
  catalog.check_feature_lengths(name, feature_lengths)
  task = catalog.get(name)
  vocab_size = task.output_features['targets'].vocabulary.vocab_size

  def count(split):
    counts = np.zeros(vocab_size, np.int64)
    for targets in _targets(task, feature_lengths, split, seed):
      counts += np.bincount(targets, minlength=vocab_size)
    counts[0] = 0  # Padding is no target.
    if not counts.any():
      raise ValueError(f"task '{name}' has no target in split '{split}'")
    return counts

  seen = count('train') + 1
  held_out = count('validation')
  log_p = np.log(seen / seen.sum())
  return float(-(held_out @ log_p) / held_out.sum())
