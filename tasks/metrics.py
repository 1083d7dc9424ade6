"""Metric functions of language-model tasks, for seqio's evaluator."""

import math
from collections.abc import Mapping, Sequence


def count_target_tokens(
  decoded: str,
  example: Mapping[str, Sequence[int]] | None = None,
  is_target: bool = False,
) -> str | int:
  """Postprocessor: number of target tokens for a target, text for an output.

  Args:
    decoded: the text.
    example: the task's example; `targets` hold ids, EOS included.
    is_target: whether `decoded` is the target, or the model's output.
  """
  return len(example['targets']) if is_target else decoded


def target_loss(
  targets: Sequence[int], scores: Sequence[float]
) -> dict[str, float]:
  """Mean loss per target token, as in training without z-loss.

  Args:
    targets: numbers of target tokens (`count_target_tokens`).
    scores: the model's log likelihood of each target sequence, in nats.

  Returns:
    'loss' in nats per target token, EOS included, and 'perplexity' = exp(loss).
  """
  loss = -float(sum(scores)) / sum(targets)
  return {'loss': loss, 'perplexity': math.exp(loss)}
