"""Metric functions of tasks whose answers are text.

Names, definitions and the scale, percent, are T5's (Raffel et al. 2020, arXiv
1910.10683, section 2.3 and appendix D; package t5 0.9.4).
"""

import collections
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from fnet_t5x.tasks import label_metrics


def normalize_answer(text: str) -> str:
  """Normalizes as SQuAD does.

  Lower case, no ASCII punctuation, no articles, single spaces.
  """
  kept = text.lower().translate(str.maketrans('', '', string.punctuation))
  return ' '.join(re.sub(r'\b(?:a|an|the)\b', ' ', kept).split())


def _token_f1(answer: str, output: str) -> float:
  answer_words, output_words = answer.split(), output.split()
  shared = collections.Counter(answer_words) & collections.Counter(output_words)
  # 0 if both are empty, as in SQuAD v1.1's script.
  total = len(answer_words) + len(output_words)
  return 2 * shared.total() / total if shared else 0.0


def squad(
  targets: Sequence[Sequence[str]], predictions: Sequence[str]
) -> dict[str, float]:
  """Returns SQuAD v1.1's metrics, in percent: the best over all answers.

  Args:
    targets: the answers to each question; empty for an unanswerable question,
      to which an empty output is right (SQuAD v2's rule).
    predictions: outputs.

  Returns:
    'em', exact matches after `normalize_answer`, and 'f1' over words.
  """
  exact, f1 = [], []
  for answers, output in zip(targets, predictions, strict=True):
    output = normalize_answer(output)
    answers = [normalize_answer(answer) for answer in answers]
    if not answers:
      exact.append(output == '')
      f1.append(float(output == ''))
      continue
    exact.append(output in answers)
    f1.append(max(_token_f1(answer, output) for answer in answers))
  return {'em': 100 * float(np.mean(exact)), 'f1': 100 * float(np.mean(f1))}


def rouge(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """Returns ROUGE-1, -2 and summary-level -L: mean F-measures, in percent.

  Package rouge-score with T5's settings: no stemming; for rougeLsum, sentences
  are lines, and ' . ' ends one. T5 reports the median of a bootstrap over these
  means, which varies between runs; this is the mean itself.
  """
  from rouge_score import rouge_scorer

  names = ['rouge1', 'rouge2', 'rougeLsum']
  scorer = rouge_scorer.RougeScorer(names)
  scores = collections.defaultdict(list)
  for target, prediction in zip(targets, predictions, strict=True):
    lines = (s.replace(' . ', ' .\n') for s in (target, prediction))
    for name, score in scorer.score(*lines).items():
      scores[name].append(score.fmeasure)
  return {name: 100 * float(np.mean(scores[name])) for name in names}


def bleu(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """Returns corpus BLEU.

  Package sacreBLEU with T5's settings: `intl` tokenization, case-sensitive,
  `exp` smoothing. Logs sacreBLEU's signature, which has version and settings.
  """
  import sacrebleu

  metric = sacrebleu.BLEU(tokenize='intl', smooth_method='exp')
  score = metric.corpus_score(list(predictions), [list(targets)])
  logging.info('sacreBLEU %s', metric.get_signature())
  return {'bleu': score.score}


def record(
  targets: Sequence[Mapping[str, Any]], predictions: Sequence[str]
) -> dict[str, float]:
  """Returns ReCoRD's metrics: `squad` over the queries, each counted once.

  A query with several answers has several examples with the same inputs.

  Args:
    targets: all answers in `value`, the query in `group`.
    predictions: outputs.
  """
  firsts = [
    pairs[0] for pairs in label_metrics.groups(targets, predictions).values()
  ]
  answers, outputs = zip(*firsts, strict=True)
  return squad(answers, outputs)
