"""Metric functions of language-modeling tasks, for SeqIO's evaluator."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fnet_t5x.tasks import label_metrics


def count_target_tokens(
  decoded: str,
  example: Mapping[str, Sequence[int]] | None = None,
  is_target: bool = False,
) -> str | int:
  """Postprocesses a target to its number of tokens.

  Args:
    decoded: the text.
    example: the task's example; `targets` are ids, EOS included.
    is_target: whether `decoded` is the target; an output is returned as it is.
  """
  return len(example['targets']) if is_target else decoded


def perplexity(loss: float) -> float:
  """Returns exp(loss), or infinity on overflow."""
  try:
    return math.exp(loss)
  except OverflowError:
    return math.inf


def target_loss(
  targets: Sequence[int], scores: Sequence[float]
) -> dict[str, float]:
  """Returns the mean loss per target token, as in training without z-loss.

  Args:
    targets: number of tokens of each target (`count_target_tokens`).
    scores: the model's log likelihood of each target sequence, in nats.

  Returns:
    'loss' in nats per target token, EOS included, and 'perplexity' = exp(loss).
  """
  loss = -float(sum(scores)) / sum(targets)
  return {'loss': loss, 'perplexity': perplexity(loss)}


def held_out_loss(
  targets: Sequence[Mapping[str, int]], scores: Sequence[float]
) -> dict[str, float]:
  """Returns the loss of whole documents, normalized by the size of their text.

  Bits per byte and perplexity per word are comparable across vocabularies; the
  loss per token is not.

  Args:
    targets: size of each window: `tokens`, and `bytes` and `words` of the
      original text (`postprocessors.text_extent`).
    scores: log likelihood of each window's tokens, in nats.

  Returns:
    'bits_per_byte' = nats / ln 2 / bytes, 'perplexity_per_word' = exp(nats /
    words), 'loss_per_token' in nats, 'unknown_token_share': the share of tokens
    that are <unk>, which cost a model less than the text they replace; and the
    totals 'documents_bytes', 'documents_words', 'documents_tokens'.
  """
  total = {
    unit: sum(int(t[unit]) for t in targets)
    for unit in ('bytes', 'words', 'tokens', 'unknown_tokens')
  }
  nats = -math.fsum(scores)
  return {
    'bits_per_byte': nats / math.log(2) / total['bytes'],
    'perplexity_per_word': perplexity(nats / total['words']),
    'loss_per_token': nats / total['tokens'],
    'unknown_token_share': total['unknown_tokens'] / total['tokens'],
    'documents_bytes': total['bytes'],
    'documents_words': total['words'],
    'documents_tokens': total['tokens'],
  }


def last_word_accuracy(
  targets: Sequence[Mapping[str, Any]], predictions: Sequence[str]
) -> dict[str, float]:
  """Returns the share of outputs whose first word is the target, in percent.

  Args:
    targets: the words, in `word` (`postprocessors.last_word`).
    predictions: first words of the outputs.
  """
  return label_metrics.accuracy([t['word'] for t in targets], predictions)


def last_word_perplexity(
  targets: Sequence[Mapping[str, Any]], scores: Sequence[float]
) -> dict[str, float]:
  """Returns the perplexity of the last word, over all its tokens.

  Args:
    targets: one per example, with the number of `tokens`.
    scores: log likelihood of each word, in nats.

  Returns:
    'perplexity' per word and 'loss_per_token' in nats.
  """
  nats = -math.fsum(scores)
  return {
    'perplexity': perplexity(nats / len(scores)),
    'loss_per_token': nats / sum(t['tokens'] for t in targets),
  }
