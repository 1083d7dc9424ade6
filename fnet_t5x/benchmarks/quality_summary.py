"""Table of equal training, from the records of its runs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Record = Mapping[str, Any]


def differences(
  records: Sequence[Record], model: str, other: str
) -> list[float]:
  """Returns a model's loss less another's, for each seed that both have."""
  return [a['loss'] - b['loss'] for a, b in _pairs(records, model, other)]


def is_better(records: Sequence[Record], model: str, other: str) -> list[bool]:
  """Returns whether a model's loss is lower, for each seed that both have.

  Lower by two standard errors of the loss at least, where records have them:
  losses over the same targets, of networks that learned the same, differ by
  less than that.
  """
  return [
    a['loss'] < b['loss'] - 2 * b.get('standard_error', 0.0)
    for a, b in _pairs(records, model, other)
  ]


def _pairs(records, model, other):
  """Returns the records of two models, for each seed that both have."""
  runs = {(record['model'], record['seed']): record for record in records}
  seeds = dict.fromkeys(record['seed'] for record in records)
  return [
    (runs[model, seed], runs[other, seed])
    for seed in seeds
    if (model, seed) in runs and (other, seed) in runs
  ]


def context_line(records: Sequence[Record], attention: str = 'T5') -> str:
  """Returns whether attention is better than no mixing, in one line.

  Args:
    records: those of the runs, also of 'none'.
    attention: the model with attention in all layers.
  """
  found = differences(records, attention, 'none')
  better = sum(is_better(records, attention, 'none'))
  values = ', '.join(f'{difference:+.4f}' for difference in found)
  verdict = (
    'context counts here'
    if found and better == len(found)
    else 'so attention makes little use of context here'
  )
  name = 'attention'
  if attention != name:
    name += f' ({attention})'
  return (
    f'{name} less no mixing at all: {values} nats per target token: '
    f'better beyond the error with {better} of {len(found)} seeds, {verdict}'
  )


def loss_at(record: Record, field: str, value: float) -> float | None:
  """Returns a run's loss at a number of steps, seconds or FLOPs.

  Args:
    record: the run's.
    field: 'steps', 'seconds' or 'flops'.
    value: their number.

  Returns:
    The loss, interpolated linearly between the evaluations; None before the
    first and after the last.
  """
  points = sorted((p[field], p['loss']) for p in record['points'])
  places, losses = zip(*points, strict=True)
  if not places[0] <= value <= places[-1]:
    return None
  return float(np.interp(value, places, losses))


COLUMNS = (
  '',
  'parameters',
  'steps',
  'TFLOPs',
  'loss',
  'minimum',
  'maximum',
  '- control',
  'at equal steps',
  'at equal FLOPs',
)


def runs_by_model(records: Sequence[Record]) -> dict[str, list[Record]]:
  """Returns the records of each model, in the order of their first."""
  runs: dict[str, list[Record]] = {}
  for record in records:
    runs.setdefault(record['model'], []).append(record)
  return runs


def losses_at_equal(
  records: Sequence[Record], field: str
) -> dict[str, list[float]]:
  """Returns losses at the number of steps, seconds or FLOPs that all reach.

  Args:
    records: those of all runs.
    field: as of `loss_at`.

  Returns:
    The losses of each model's runs that had been evaluated by then.
  """
  value = min(record[field] for record in records)
  return {
    model: [
      loss
      for loss in (loss_at(run, field, value) for run in runs)
      if loss is not None
    ]
    for model, runs in runs_by_model(records).items()
  }


def as_rows(records: Sequence[Record]) -> list[list[str]]:
  """Returns a row per model: medians over its seeds."""
  equal = [losses_at_equal(records, field) for field in ('steps', 'flops')]

  def median(values):
    values = list(values)
    return float(np.median(values)) if values else math.nan

  rows = []
  for model, runs in runs_by_model(records).items():
    losses = [run['loss'] for run in runs]
    rows.append(
      [
        model,
        f'{runs[0]["parameters"] / 1e6:.2f}M',
        f'{median(run["steps"] for run in runs):.0f}',
        f'{median(run["flops"] for run in runs) / 1e12:.4g}',
        f'{median(losses):.4f}',
        f'{min(losses):.4f}',
        f'{max(losses):.4f}',
        f'{median(differences(records, model, "control")):+.4f}',
        *(f'{median(reached[model]):.4f}' for reached in equal),
      ]
    )
  return rows
