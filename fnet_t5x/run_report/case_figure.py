"""Figure of a sweep: a metric by step and by training time, one line per case.

A line is the median over seeds; the band around it reaches from the minimum to
the maximum.
"""

import io
from collections.abc import Sequence

from fnet_t5x.run_report import cases, curves, figure

_WIDTH, _HEIGHT = 12.0, 4.6


def draw(compared: Sequence[cases.Case], metric: str) -> bytes:
  """Returns the figure, as the bytes of a PNG file.

  Raises:
    ImportError: matplotlib is not installed.
  """
  figure.check_matplotlib()
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  with figure.settings():
    made = Figure((_WIDTH, _HEIGHT), dpi=figure.DPI, layout='constrained')
    FigureCanvasAgg(made)
    by_steps, by_time = made.subplots(1, 2)
    bands = [case.band() for case in compared]
    seconds, unit = curves.time_unit(
      max((s for band in bands for s in band.seconds), default=0.0)
    )
    for case, band, style in zip(
      compared, bands, figure.styles(len(compared)), strict=True
    ):
      low, high = case.extremes()
      times = [each / seconds for each in band.seconds]
      for axis, x in ((by_steps, band.steps), (by_time, times)):
        figure.line(axis, x, band.values, style, linewidth=1.8, label=case.name)
        axis.fill_between(x, low, high, color=style.color, alpha=0.15, lw=0)
    figure.finish(by_steps, f'{metric} by step', 'step', metric)
    figure.finish(
      by_time, f'{metric} by training time', f'training time, {unit}', metric
    )
    by_steps.legend(fontsize=9, framealpha=0.85)
    buffer = io.BytesIO()
    made.savefig(buffer, format='png', dpi=figure.DPI)
    return buffer.getvalue()
