"""Figure of generation: times and memory by the length of the prefix.

A line per network and batch size; the batch sizes differ in their dashes.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from fnet_t5x.run_report import figure

_WIDTH, _HEIGHT = 12.0, 8.0
_DASHES = ('solid', (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))


def draw(records: Sequence[Mapping[str, Any]]) -> bytes:
  """Returns the figure, as the bytes of a PNG file.

  Args:
    records: those of `inference.measure`, of all prefixes and batch sizes.

  Raises:
    ImportError: matplotlib is not installed.
  """
  figure.check_matplotlib()
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  done = [record for record in records if 'skipped' not in record]
  with figure.settings():
    made = Figure((_WIDTH, _HEIGHT), dpi=figure.DPI, layout='constrained')
    FigureCanvasAgg(made)
    axes = made.subplots(2, 2).ravel()
    for axis, (title, unit, value) in zip(axes, _PANELS, strict=True):
      for label, style, xs, ys in lines(done, value):
        figure.line(
          axis, xs, ys, style, linewidth=1.8, marker='o', ms=4, label=label
        )
      figure.finish(axis, title, 'tokens of the prefix', unit)
      if axis.lines:
        axis.set_xscale('log', base=2)
        axis.set_yscale('log')
        # Matplotlib's own labels are powers, as formulas.
        axis.xaxis.set_major_formatter(lambda value, _: f'{value:,.0f}')
        axis.yaxis.set_major_formatter(lambda value, _: f'{value:g}')
        axis.yaxis.set_minor_formatter(_minor_label)
    if axes[0].lines:
      axes[0].legend(fontsize=8, framealpha=0.85)
    buffer = io.BytesIO()
    made.savefig(buffer, format='png', dpi=figure.DPI)
    return buffer.getvalue()


def lines(
  records: Sequence[Mapping[str, Any]], value: Any
) -> list[tuple[str, figure.Style, list[int], list[float]]]:
  """Returns label, style, prefixes and values of each line.

  Args:
    records: those with figures.
    value: function of a record, whose None is left out.
  """
  names = list(dict.fromkeys(record['model'] for record in records))
  batches = list(dict.fromkeys(record['rows'] for record in records))
  colors = [style.color for style in figure.styles(len(names))]
  found = []
  for name, color in zip(names, colors, strict=True):
    for place, rows in enumerate(batches):
      points = sorted(
        (record['prefix'], value(record))
        for record in records
        if (record['model'], record['rows']) == (name, rows)
        and value(record) is not None
      )
      if points:
        style = figure.Style(color, _DASHES[place % len(_DASHES)])
        found.append(
          (
            f'{name}, batch {rows}',
            style,
            *map(list, zip(*points, strict=True)),
          )
        )
  return found


def _minor_label(value, place):
  """Labels 2 and 5 times a power of ten."""
  del place
  return f'{value:g}' if f'{value:.0e}'[0] in '25' else ''


def _milliseconds(field):
  return lambda record: 1e3 * record[field]


def _cache(record):
  if 'self_cache_bytes' not in record:
    return None
  return (record['self_cache_bytes'] + record['cross_cache_bytes']) / 1e6


_PANELS = (
  ('Time to the first token', 'ms', _milliseconds('first_token_seconds')),
  ('Time per token', 'ms', _milliseconds('token_seconds')),
  ('Generation', 'tokens/s', lambda record: record['tokens_per_second']),
  ('Caches', 'MB', _cache),
)
