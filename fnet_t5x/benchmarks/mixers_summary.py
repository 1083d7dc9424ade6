"""Table of the study of mixers, from the records of its runs."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fnet_t5x.benchmarks import quality_summary

Record = quality_summary.Record

COLUMNS = (
  '',
  'parameters',
  'mlp_dim',
  'steps',
  'seconds',
  'ms per step',
  'loss',
  'spread',
  'accuracy',
  '- control',
  'at equal steps',
  'at equal seconds',
  'perplexity',
)


def as_rows(
  records: Sequence[Record], controls: Mapping[str, str]
) -> list[list[str]]:
  """Returns a row per layout: means over its seeds, and the loss's range.

  Args:
    records: those of the runs.
    controls: control of each layout, by name.
  """
  equal = [
    quality_summary.losses_at_equal(records, field)
    for field in ('steps', 'seconds')
  ]
  rows = []
  for model, runs in quality_summary.runs_by_model(records).items():
    losses = [run['loss'] for run in runs]
    times = [1000 * run['seconds'] / run['steps'] for run in runs]
    control = controls.get(model, model)
    better = quality_summary.differences(records, model, control)
    rows.append(
      [
        model,
        f'{runs[0]["parameters"]:,}',
        f'{runs[0]["mlp_dim"]:,}',
        f'{_mean(run["steps"] for run in runs):.0f}',
        f'{_mean(run["seconds"] for run in runs):.0f}',
        f'{np.median(times):.1f}',
        f'{_mean(losses):.4f}',
        f'{max(losses) - min(losses):.4f}',
        f'{_mean(run["accuracy"] for run in runs):.4f}',
        f'{_mean(better):+.4f}' if better and control != model else '',
        *(f'{_mean(reached[model]):.4f}' for reached in equal),
        f'{math.exp(min(_mean(losses), 100.0)):.2f}',
      ]
    )
  return rows


def _mean(values: Iterable[float]) -> float:
  values = list(values)
  return float(np.mean(values)) if values else math.nan
