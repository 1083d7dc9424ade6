"""Metric functions of language-model tasks, for seqio's evaluator."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fnet_t5x.tasks import label_metrics


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


def perplexity(loss: float) -> float:
  """exp(loss), infinite where that is beyond float64."""
  try:
    return math.exp(loss)
  except OverflowError:
    return math.inf


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
  return {'loss': loss, 'perplexity': perplexity(loss)}


def held_out_loss(
  targets: Sequence[Mapping[str, int]], scores: Sequence[float]
) -> dict[str, float]:
  """Loss of whole documents, per unit of text and not of vocabulary.

  Bits per byte and perplexity per word compare models of different
  vocabularies; the loss per token does not.

  Args:
    targets: what each window covers: `tokens` and, of the original text,
      `bytes` and `words` (`postprocessors.text_extent`).
    scores: log likelihood of each window's tokens, in nats.

  Returns:
    'bits_per_byte' = nats / ln 2 / bytes, 'perplexity_per_word' = exp(nats /
    words), 'loss_per_token' in nats, 'unknown_token_share': the share of tokens
    that are <unk>, for which a model pays less than for the text they hide; and
    the totals 'documents_bytes', 'documents_words', 'documents_tokens'.
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
  """Share of outputs that begin with the very word, in percent.

  Args:
    targets: the words, under `word` (`postprocessors.last_word`).
    predictions: first words of the outputs.
  """
  return label_metrics.accuracy([t['word'] for t in targets], predictions)


def last_word_perplexity(
  targets: Sequence[Mapping[str, Any]], scores: Sequence[float]
) -> dict[str, float]:
  """Perplexity of the last word: exp of its mean loss, over all its tokens.

  Args:
    targets: one an example, with the number of `tokens`.
    scores: log likelihood of each word, in nats.

  Returns:
    'perplexity' per word and 'loss_per_token' in nats.
  """
  nats = -math.fsum(scores)
  return {
    'perplexity': perplexity(nats / len(scores)),
    'loss_per_token': nats / sum(t['tokens'] for t in targets),
  }
