"""Figure of runs: losses by step and by training time, learning rate, speed.

Each run has a color, from the eighth on also a dash pattern; each task has a
marker. Matplotlib, an optional dependency, is imported only for drawing.
"""

import contextlib
import importlib.util
import io
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from fnet_t5x.run_report import curves

# Okabe and Ito's palette, which is safe for color-blind readers; without
# yellow, which is too pale for lines on white.
_COLORS = (
  '#0072B2',
  '#D55E00',
  '#009E73',
  '#CC79A7',
  '#E69F00',
  '#56B4E9',
  '#000000',
)
_DASHES = ('solid', (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))
_MARKERS = 'osD^vP'
_MISSING = "report needs matplotlib: pip install 'fnet_t5x[report]'"
_GREY = '#555555'
_WIDTH, _HEIGHT = 12.0, 8.0
DPI = 120
# Legend: characters per row of the figure, and per line sample.
_LEGEND_CHARACTERS, _SAMPLE_CHARACTERS = 150, 7


_SETTINGS = {
  'font.size': 10,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'grid.color': '#e4e4e4',
  'axes.axisbelow': True,
  'axes.titlelocation': 'left',
  'axes.titleweight': 'bold',
  'axes.titlesize': 11,
  'axes.formatter.useoffset': False,
  # Names of folders and tasks are not formulas.
  'text.parse_math': False,
  'text.usetex': False,
}


class Style(NamedTuple):
  """Line style of a run."""

  color: str
  dashes: Any


def has_matplotlib() -> bool:
  """Whether matplotlib is installed."""
  return importlib.util.find_spec('matplotlib') is not None


def check_matplotlib() -> None:
  """Raises ImportError if matplotlib is not installed."""
  if not has_matplotlib():
    raise ImportError(_MISSING)


def styles(count: int) -> list[Style]:
  """Returns `count` line styles; up to 28 are all different."""
  cycle = itertools.cycle(
    Style(color, dashes) for dashes in _DASHES for color in _COLORS
  )
  return list(itertools.islice(cycle, count))


def draw(runs: Sequence[curves.Run]) -> bytes:
  """Returns the figure of runs, as the bytes of a PNG file.

  Raises:
    ImportError: matplotlib is not installed.
  """
  check_matplotlib()
  with settings():
    buffer = io.BytesIO()
    make(runs).savefig(buffer, format='png', dpi=DPI)
    return buffer.getvalue()


def make(runs: Sequence[curves.Run]) -> Any:
  """Returns the figure of runs, a `matplotlib.figure.Figure`.

  Raises:
    ImportError: matplotlib is not installed.
  """
  check_matplotlib()
  # Not pyplot, which keeps figures and needs a display.
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  with settings():
    columns = _legend_columns([run.name for run in runs])
    rows = -(-len(runs) // columns)
    size = (_WIDTH, _HEIGHT + 0.22 * rows)
    figure = Figure(size, dpi=DPI, layout='constrained')
    FigureCanvasAgg(figure)
    _fill(figure, runs, columns)
    return figure


@contextlib.contextmanager
def settings() -> Iterator[None]:
  """Applies our matplotlib settings, ignoring the user's own."""
  import matplotlib

  with (
    warnings.catch_warnings(),
    matplotlib.rc_context(matplotlib.rcParamsDefault),
  ):
    # Warnings on missing glyphs, which are shown as boxes.
    warnings.simplefilter('ignore')
    matplotlib.rcParams.update(_SETTINGS)
    yield


def _legend_columns(names: Sequence[str]) -> int:
  each = max(map(len, names)) + _SAMPLE_CHARACTERS
  return max(1, min(len(names), _LEGEND_CHARACTERS // each))


def _fill(figure, runs, columns) -> None:
  """Draws the panels and the legends."""
  from matplotlib.lines import Line2D

  figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1, hspace=0.04)
  axes = figure.subplots(2, 2).ravel()
  seconds, unit = curves.time_unit(max(run.seconds for run in runs))
  chosen = styles(len(runs))
  tasks = sorted({task for run in runs for task in run.validation})
  by_steps, by_time, rates, speeds = axes
  for axis, x_of in (
    (by_steps, lambda curve: curve.steps),
    (by_time, lambda curve: [each / seconds for each in curve.seconds]),
  ):
    for run, style in zip(runs, chosen, strict=True):
      _losses(axis, run, style, x_of, tasks)
  for axis, name in ((rates, 'learning_rate'), (speeds, 'speed')):
    for run, style in zip(runs, chosen, strict=True):
      curve = getattr(run, name)
      line(axis, curve.steps, curve.values, style, linewidth=1.4)
  nats = 'nats per target token'
  finish(by_steps, 'Loss by step', 'step', nats)
  finish(by_time, 'Loss by training time', f'training time, {unit}', nats)
  finish(rates, 'Learning rate', 'step', '')
  finish(speeds, 'Speed', 'step', 'target tokens/s')
  for axis in (by_steps, by_time):
    _scale_losses(axis, runs)
  tops = [max(c.values) for run in runs if (c := run.learning_rate).values]
  if curves.is_log(tops):
    rates.set_yscale('log')
  elif tops:
    rates.set_ylim(bottom=min(0.0, rates.get_ylim()[0]))
  if any(run.speed.values for run in runs):
    speeds.set_ylim(bottom=0)
  for axis in axes:
    axis.set_xlim(left=0)
  speeds.yaxis.set_major_formatter(_thousands)
  for axis in (by_steps, rates, speeds):
    axis.xaxis.set_major_formatter(_thousands)
  by_steps.legend(
    handles=[
      Line2D([], [], color=_GREY, linewidth=1, alpha=0.6, label='training'),
      *(
        Line2D(
          [],
          [],
          color=_GREY,
          linewidth=1.8,
          marker=_marker(tasks, task),
          markersize=5,
          label=f'validation, {task}',
        )
        for task in tasks
      ),
    ],
    fontsize=9,
    framealpha=0.85,
    loc='upper right',
  )
  figure.legend(
    handles=[
      Line2D([], [], color=s.color, linestyle=s.dashes, linewidth=2.2, label='')
      for s in chosen
    ],
    labels=[run.name for run in runs],
    loc='outside lower center',
    ncols=columns,
    frameon=False,
    handlelength=2.6,
  )


def _losses(axis, run, style: Style, x_of: Callable, tasks) -> None:
  line(
    axis, x_of(run.training), run.training.values, style, linewidth=1, alpha=0.5
  )
  for task, curve in run.validation.items():
    line(
      axis,
      x_of(curve),
      curve.values,
      style,
      linewidth=1.8,
      marker=_marker(tasks, task),
      markersize=4,
      # So that markers of long runs do not overlap.
      markevery=max(1, len(curve.values) // 25),
    )


def line(axis, x, y, style: Style, **options) -> None:
  if len(x) == 1:
    # A line of one point would be invisible.
    options.setdefault('marker', '.')
  axis.plot(x, y, color=style.color, linestyle=style.dashes, **options)


def _marker(tasks: Sequence[str], task: str) -> str:
  return _MARKERS[tasks.index(task) % len(_MARKERS)]


def _scale_losses(axis, runs: Iterable[curves.Run]) -> None:
  """Makes the loss axis logarithmic, or clips the initial drop.

  Clips everything above the losses of the last 90 % of each run: on an axis
  that includes the initial drop, the runs' ends could not be distinguished.
  """
  drawn = [
    (run.step, curve)
    for run in runs
    for curve in (run.training, *run.validation.values())
  ]
  values = [value for _, curve in drawn for value in curve.values]
  late = [
    value
    for last, curve in drawn
    for step, value in zip(curve.steps, curve.values, strict=True)
    if step >= last / 10
  ]
  if curves.is_log(values):
    axis.set_yscale('log')
    return
  if not late:
    return
  margin = 0.04 * (max(late) - min(late)) or 0.1
  if max(values) - min(values) > 1.5 * (max(late) - min(late)) > 0:
    axis.set_ylim(min(values) - margin, max(late) + margin)
    axis.set_title(
      f'clipped above {max(late) + margin:.3g}',
      loc='right',
      fontsize=9,
      color=_GREY,
      fontweight='normal',
    )


def finish(axis, title: str, x_label: str, y_label: str) -> None:
  axis.set_title(title)
  axis.set_xlabel(x_label)
  axis.set_ylabel(y_label)
  if not axis.lines or not any(len(line.get_xdata()) for line in axis.lines):
    axis.text(
      0.5,
      0.5,
      'no data',
      ha='center',
      va='center',
      color=_GREY,
      transform=axis.transAxes,
    )
    axis.set_xticks([])
    axis.set_yticks([])


def _thousands(value: float, place: int) -> str:
  """Returns a tick's label."""
  del place
  return f'{value:,.0f}' if value == int(value) else f'{value:,.3g}'
