"""Cases of a sweep: the same runs with several seeds, and their spread."""

import dataclasses
import pathlib
import statistics
from collections.abc import Mapping, Sequence

from fnet_t5x import run_metrics
from fnet_t5x.run_report import curves


@dataclasses.dataclass(frozen=True)
class Case:
  """One setting, trained with several seeds.

  Attributes:
    name: name of the case.
    curves: the metric of each seed's run.
    steps_per_second: median speed of each seed's run, None if not measured.
  """

  name: str
  curves: Mapping[int, curves.Curve]
  steps_per_second: Mapping[int, float | None]

  @property
  def finals(self) -> list[float]:
    """Last value of each seed's run."""
    return [curve.values[-1] for curve in self.curves.values()]

  @property
  def speed(self) -> float | None:
    """Median speed over the seeds, in steps per second."""
    known = [speed for speed in self.steps_per_second.values() if speed]
    return statistics.median(known) if known else None

  def band(self) -> curves.Curve:
    """Returns the median over seeds at each step that all runs have."""
    steps = self._common_steps()
    medians = (
      [statistics.median(each) for each in self._by_step(field, steps)]
      for field in ('seconds', 'values')
    )
    return curves.Curve(steps, *medians)

  def extremes(self) -> tuple[list[float], list[float]]:
    """Returns minimum and maximum over seeds, at the steps of `band`."""
    columns = self._by_step('values', self._common_steps())
    return [min(each) for each in columns], [max(each) for each in columns]

  def _common_steps(self) -> list[int]:
    sets = [set(curve.steps) for curve in self.curves.values()]
    return sorted(set.intersection(*sets))

  def _by_step(self, field: str, steps: list[int]) -> list[tuple]:
    """Returns a field of the curves at each step, for all seeds."""
    by_seed = []
    for curve in self.curves.values():
      known = dict(zip(curve.steps, getattr(curve, field), strict=True))
      by_seed.append([known[step] for step in steps])
    return list(zip(*by_seed, strict=True))


def read(name: str, folders: Mapping[int, pathlib.Path], metric: str) -> Case:
  """Reads a case from its runs' folders, by seed.

  Args:
    name: name of the case.
    folders: model directory of each seed's run.
    metric: see `metric_curve`.

  Raises:
    OSError: a run's metrics cannot be read.
    ValueError: as `metric_curve`.
  """
  found, speeds = {}, {}
  for seed, folder in folders.items():
    rows = run_metrics.read(folder / run_metrics.FILE).rows
    found[seed] = metric_curve(rows, metric, f'{name}, seed {seed}')
    speeds[seed] = curves.run_of_rows(name, rows).steps_per_second
  return Case(name, found, speeds)


def metric_curve(
  rows: Sequence[Mapping], metric: str, name: str
) -> curves.Curve:
  """Returns the curve of a metric on the validation split.

  Args:
    rows: of the run.
    metric: the metric's name, or COLLECTION:NAME, such as
      `training_eval/my_task:loss`, if several evaluations have it.
    name: of the run, for errors.

  Raises:
    ValueError: no evaluation of the run has the metric, or several have.
  """
  collection, _, short = metric.rpartition(':')
  prefixes = (run_metrics.TRAINING_EVAL, run_metrics.INFERENCE_EVAL)
  having = sorted(
    {
      row['collection']
      for row in rows
      if short in row
      and (
        row['collection'] == collection
        if collection
        else row['collection'].startswith(prefixes)
      )
    }
  )
  if len(having) > 1:
    choices = ', '.join(f'{each}:{short}' for each in having)
    raise ValueError(f'{name}: several evaluations have {short}: {choices}')
  if not having:
    known = sorted(
      {
        key
        for row in rows
        if row['collection'].startswith(prefixes)
        for key in row
        if key not in ('step', 'collection')
      }
    )
    raise ValueError(
      f'{name}: no evaluation has the metric {metric}; it has '
      f'{", ".join(known) or "none"}'
    )
  curve = curves.curve_of(rows, having[0], short)
  if not curve.values:
    raise ValueError(f'{name}: {metric} is never a finite number')
  return curve
