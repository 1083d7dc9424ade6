"""Table of the study of mixers, from the records of its runs."""

import math
from collections.abc import Mapping, Sequence

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
)


def as_rows(
  records: Sequence[Record], controls: Mapping[str, str]
) -> list[list[str]]:
  """Returns a row per layout: means over its seeds, and the loss's range.

  Args:
    records: those of the runs.
    controls: control of each layout, by name.
  """
  common = {
    field: min(record[field] for record in records)
    for field in ('steps', 'seconds')
  }
  rows = []
  for model in dict.fromkeys(record['model'] for record in records):
    runs = [record for record in records if record['model'] == model]

    def mean(values):
      known = [value for value in values if value is not None]
      return float(np.mean(known)) if known else math.nan

    losses = [run['loss'] for run in runs]
    control = controls.get(model)
    better = quality_summary.differences(records, model, control)
    times = [1000 * run['seconds'] / run['steps'] for run in runs]
    rows.append(
      [
        model,
        f'{runs[0]["parameters"]:,}',
        f'{runs[0]["mlp_dim"]:,}',
        f'{mean(run["steps"] for run in runs):.0f}',
        f'{mean(run["seconds"] for run in runs):.0f}',
        f'{np.median(times):.1f}',
        f'{mean(losses):.4f}',
        f'{max(losses) - min(losses):.4f}',
        f'{mean(run["accuracy"] for run in runs):.4f}',
        f'{mean(better):+.4f}' if better and control != model else '',
        *(
          f'{mean(quality_summary.loss_at(run, f, v) for run in runs):.4f}'
          for f, v in common.items()
        ),
      ]
    )
  return rows
