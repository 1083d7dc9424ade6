"""HTML page of runs: the figure, results, and configuration.

A single file without links or scripts, for sharing. All texts are escaped.
"""

import base64
import html
from collections.abc import Iterable, Sequence

from fnet_t5x.run_report import curves

# The most important macros, shown after the ones that differ.
MAIN_MACROS = (
  'MIXTURE_OR_TASK_NAME',
  'TASK_FEATURE_LENGTHS',
  'BATCH_SIZE',
  'TRAIN_STEPS',
  'OPTIMIZER',
  'LEARNING_RATE',
  'WARMUP_STEPS',
  'DROPOUT_RATE',
  'NON_ATTENTION_MIXING',
  'ENCODER_MIXING',
  'NUM_ENCODER_LAYERS',
  'NUM_ATTENTION_LAYERS',
  'NUM_DECODER_LAYERS',
  'EMBED_DIM',
  'MLP_DIM',
  'NUM_HEADS',
  'VOCAB_SIZE',
  'ACTIVATION_DTYPE',
  'RANDOM_SEED',
)
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; margin: 2rem auto;
  max-width: 80rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
img { max-width: 100%; height: auto; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left;
  vertical-align: top; }
thead th { border-bottom: 2px solid #888; }
td.number, th.number { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
td.value { font-family: ui-monospace, monospace; font-size: .85rem; }
p.note { color: #555; }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def make(runs: Sequence[curves.Run], picture: bytes) -> str:
  """Returns the page.

  Args:
    runs: runs, in the order of the table.
    picture: the figure, as the bytes of a PNG file.
  """
  count = f'{len(runs)} training run{"s" * (len(runs) != 1)}'
  image = base64.b64encode(picture).decode()
  parts = [
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
    '<meta name="viewport" content="width=device-width">\n'
    f'<title>{count}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n'
    f'<h1>{count}</h1>\n'
    f'<img alt="Loss by step and by training time, learning rate and speed"'
    f' src="data:image/png;base64,{image}">\n'
    '<h2>Results</h2>\n',
    _table(*results(runs), texts=int(_several_tasks(runs))),
    '<p class="note">Losses are in nats per target token. Training time '
    'excludes evaluation, compilation and pauses; a resumed run counts as one. '
    'Speeds are medians; target tokens include padding.</p>\n',
  ]
  predictions = _predictions(runs)
  if predictions:
    heads = ['run', 'task', 'step', 'metrics']
    parts += ['<h2>Predictions</h2>\n', _table(heads, predictions, 1)]
  parts += _macro_tables(runs)
  notes = [(run.name, note) for run in runs for note in run.notes]
  if notes:
    parts += ['<h2>Notes</h2>\n', _table(['run', ''], notes, 2)]
  return ''.join(parts) + '</body>\n</html>\n'


def results(
  runs: Sequence[curves.Run],
) -> tuple[list[str], list[tuple[str, ...]]]:
  """Returns the header and the rows of the table of results.

  A run has one row per validation task; the first one also has the values that
  do not depend on the task.
  """
  heads = [
    'run',
    'steps',
    'training time',
    'training loss',
    'validation loss',
    'best (step)',
    'steps/s',
    'target tokens/s',
  ]
  some_bits = any(run.bits_per_byte for run in runs)
  if some_bits:
    heads.insert(6, 'bits per byte')
  several = _several_tasks(runs)
  if several:
    heads.insert(1, 'validation task')
  rows = []
  for run in runs:
    for place, task in enumerate(list(run.validation) or ['']):
      curve = run.validation.get(task, curves.Curve())
      first = place == 0
      speed = curves.median(run.speed.values)
      row = [
        run.name,
        f'{run.step:,}' if first else '',
        duration(run.seconds) if first else '',
        _loss(run.training) if first else '',
        _loss(curve),
        f'{curve.best[1]:.4f} ({curve.best[0]:,})' if curve.best else '',
        _rate(run.steps_per_second) if first else '',
        f'{speed:,.0f}' if first and speed is not None else '',
      ]
      if some_bits:
        bits = run.bits_per_byte.get(task)
        row.insert(6, '' if bits is None else f'{bits:.4f}')
      if several:
        row.insert(1, task)
      rows.append(tuple(row))
  return heads, rows


def _several_tasks(runs: Iterable[curves.Run]) -> bool:
  return len({task for run in runs for task in run.validation}) > 1


def duration(seconds: float) -> str:
  """Returns a duration with its unit."""
  size, unit = curves.time_unit(seconds)
  return f'{seconds / size:,.1f} {unit}'


def _loss(curve: curves.Curve) -> str:
  return f'{curve.values[-1]:.4f}' if curve.values else ''


def _rate(rate: float | None) -> str:
  return '' if rate is None else f'{rate:,.3g}'


def _predictions(runs: Iterable[curves.Run]) -> list[tuple[str, ...]]:
  return [
    (
      run.name,
      task,
      f'{step:,}',
      ', '.join(f'{name} {value:.4g}' for name, value in values.items()),
    )
    for run in runs
    for task, (step, values) in run.predictions.items()
  ]


def _macro_tables(runs: Sequence[curves.Run]) -> list[str]:
  """Returns a table of the macros that differ, and one of all others."""
  known = [run for run in runs if run.macros]
  names = sorted({name for run in known for name in run.macros})
  values = {name: [run.macros.get(name, '') for run in known] for name in names}
  # MODEL_DIR always differs, and is of no interest.
  differ = [
    name for name in names if name != 'MODEL_DIR' and len(set(values[name])) > 1
  ]
  main = [n for n in MAIN_MACROS if n in values and n not in differ]
  rest = [
    n for n in names if n not in (*differ, *MAIN_MACROS) and n != 'MODEL_DIR'
  ]
  parts = []
  if differ:
    heads = ['', *(run.name for run in known)]
    rows = [(name, *values[name]) for name in differ]
    parts += ['<h2>Macros that differ</h2>\n', _table(heads, rows, 0, 'value')]
  if main or rest:
    title = 'Macros' if len(known) == 1 else 'Macros of all runs'
    parts.append(f'<h2>{title}</h2>\n')
  if main:
    parts.append(_same(main, values))
  if rest:
    parts += [
      f'<details><summary>{len(rest)} more</summary>\n',
      _same(rest, values),
      '</details>\n',
    ]
  return parts


def _same(names, values):
  rows = [(name, values[name][0]) for name in names]
  return _table(['', ''], rows, 0, 'value')


def _table(
  heads: Sequence[str],
  rows: Iterable[Sequence[str]],
  texts: int = 0,
  kind: str = 'number',
) -> str:
  """Returns a table.

  Args:
    heads: column headings.
    rows: rows of cells.
    texts: number of text columns after the first one.
    kind: CSS class of the cells of the other columns.
  """

  def cells(row, tag):
    shown = []
    for place, cell in enumerate(row):
      named = f' class="{kind}"' if place > texts else ''
      shown.append(f'<{tag}{named}>{html.escape(cell)}</{tag}>')
    return f'<tr>{"".join(shown)}</tr>\n'

  head = f'<thead>{cells(heads, "th")}</thead>\n' if any(heads) else ''
  body = ''.join(cells(row, 'td') for row in rows)
  return f'<div class="wide"><table>\n{head}{body}</table></div>\n'
