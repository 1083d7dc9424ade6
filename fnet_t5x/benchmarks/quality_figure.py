"""Figure of equal training: loss by step, by training time, by FLOPs.

A line is the median over seeds at each evaluation; the band around it reaches
from the minimum to the maximum.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fnet_t5x.run_report import curves, figure

_PANEL_WIDTH, _HEIGHT = 14 / 3, 4.6


def draw(
  records: Sequence[Mapping[str, Any]],
  fields: Sequence[str] = ('steps', 'flops', 'seconds'),
) -> bytes:
  """Returns the figure, as the bytes of a PNG file.

  Args:
    records: those of `equal_training.train_all`.
    fields: what the loss is plotted against.

  Raises:
    ImportError: matplotlib is not installed.
  """
  figure.check_matplotlib()
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  seconds, unit = curves.time_unit(max(record['seconds'] for record in records))
  scales = {
    'steps': (1.0, 'step'),
    'flops': (1e12, 'training TFLOPs'),
    'seconds': (seconds, f'training time, {unit}'),
  }
  models = list(dict.fromkeys(record['model'] for record in records))
  with figure.settings():
    size = (_PANEL_WIDTH * len(fields), _HEIGHT)
    made = Figure(size, dpi=figure.DPI, layout='constrained')
    FigureCanvasAgg(made)
    axes = made.subplots(1, len(fields), sharey=True)
    for axis, field in zip(axes, fields, strict=True):
      scale, label = scales[field]
      for model, style in zip(models, figure.styles(len(models)), strict=True):
        curve = median_curve(records, model, fields)
        x = curve[field] / scale
        figure.line(axis, x, curve['loss'], style, linewidth=1.8, label=model)
        axis.fill_between(
          x, curve['low'], curve['high'], color=style.color, alpha=0.15, lw=0
        )
      figure.finish(axis, f'Loss by {field}', label, 'nats per target token')
    axes[0].legend(fontsize=9, framealpha=0.85)
    buffer = io.BytesIO()
    made.savefig(buffer, format='png', dpi=figure.DPI)
    return buffer.getvalue()


def median_curve(
  records: Sequence[Mapping[str, Any]],
  model: str,
  fields: Sequence[str] = ('steps',),
) -> dict[str, np.ndarray]:
  """Returns the medians over a model's seeds, at equal shares of the run.

  Returns:
    The `fields`, `loss`, and its extremes `low` and `high`.
  """
  runs = [
    [point for point in record['points'] if point['at'] == 'time']
    for record in records
    if record['model'] == model
  ]
  # A slow step may pass two shares at once: runs are aligned by their ends.
  count = min(map(len, runs))
  runs = [run[-count:] for run in runs]

  def values(field):
    return np.array([[point[field] for point in run] for run in runs])

  found = {
    field: np.median(values(field), axis=0) for field in (*fields, 'loss')
  }
  losses = values('loss')
  return {**found, 'low': losses.min(axis=0), 'high': losses.max(axis=0)}
