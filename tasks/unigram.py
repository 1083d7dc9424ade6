"""Loss of a unigram model, which knows only token frequencies.

A network that uses context has a lower loss.
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
  """Returns the validation loss of a unigram model of the training targets.

  p(token) = (count + 1) / (tokens + vocabulary size), counted over one epoch of
  the task's training split with these lengths. Weighted like the validation
  loss: every target token counts once, EOS included, padding excluded.

  Args:
    name: task or mixture.
    feature_lengths: length in tokens by feature (TASK_FEATURE_LENGTHS).
    seed: seed of the objective's random draws, in both splits.

  Returns:
    Nats per target token.

  Raises:
    ValueError: unknown task, invalid lengths, or a split without targets.
  """
  catalog.check_feature_lengths(name, feature_lengths)
  task = catalog.get(name)
  vocab_size = task.output_features['targets'].vocabulary.vocab_size

  def count(split):
    counts = np.zeros(vocab_size, np.int64)
    for targets in _targets(task, feature_lengths, split, seed):
      counts += np.bincount(targets, minlength=vocab_size)
    counts[0] = 0  # Padding.
    if not counts.any():
      raise ValueError(f"task '{name}' has no targets in split '{split}'")
    return counts

  seen = count('train') + 1
  held_out = count('validation')
  log_p = np.log(seen / seen.sum())
  return float(-(held_out @ log_p) / held_out.sum())
