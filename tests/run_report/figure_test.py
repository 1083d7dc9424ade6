"""Figure: everything is drawn, styles are distinct, nothing overlaps."""

import io

import pytest

from fnet_t5x.run_report import curves, figure


def luminance(color):
  """Returns the relative luminance of an sRGB color (WCAG 2)."""
  parts = [int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)]
  parts = [
    part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
    for part in parts
  ]
  return sum(
    w * p for w, p in zip((0.2126, 0.7152, 0.0722), parts, strict=True)
  )


def run(name, steps=(10, 20, 30), loss=4.0, task='task'):
  rows = []
  for step in steps:
    rows += [
      {
        'step': step,
        'collection': 'train',
        'cross_ent_per_target_token': loss + 10 / step,
        'learning_rate/current': 0.1,
        'timing/seconds': 2.0,
        'timing/target_tokens_per_second': 100.0,
      },
      {
        'step': step,
        'collection': f'training_eval/{task}',
        'cross_ent_per_target_token': loss + 11 / step,
      },
    ]
  return curves.run_of_rows(name, rows)


def test_styles_of_many_runs_differ_and_stand_out():
  styles = figure.styles(28)
  assert len(set(styles)) == 28
  for style in styles:
    # Enough contrast for a line on white.
    assert 1.05 / (luminance(style.color) + 0.05) > 2


def test_missing_matplotlib_is_one_line(monkeypatch):
  monkeypatch.setattr(figure.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ImportError) as error:
    figure.draw([run('a')])
  assert str(error.value) == (
    "report needs matplotlib: pip install 'fnet_t5x[report]'"
  )


def drawn(*runs):
  """Draws runs; returns the figure, and the PNG's width and height."""
  pytest.importorskip('matplotlib')
  from PIL import Image

  shown = figure.make(runs)
  shown.draw_without_rendering()
  with Image.open(io.BytesIO(figure.draw(runs))) as image:
    image.load()
    return shown, image.size


def boxes(shown):
  renderer = shown.canvas.get_renderer()
  return [
    *(axis.get_tightbbox(renderer) for axis in shown.axes),
    *(legend.get_window_extent(renderer) for legend in shown.legends),
  ]


@pytest.mark.slow
@pytest.mark.parametrize('count', [1, 2, 12])
@pytest.mark.parametrize('name', ['s', 'a_folder/of_a_long_name_in_a_folder'])
def test_panels_and_legend_do_not_overlap(count, name):
  shown, (width, height) = drawn(
    *(run(f'{name}{n}', loss=4 + n) for n in range(count))
  )
  found = boxes(shown)
  assert len(found) == 5
  for place, box in enumerate(found):
    assert 0 <= box.x0 < box.x1 <= width
    assert 0 <= box.y0 < box.y1 <= height
    assert not any(box.overlaps(other) for other in found[place + 1 :])
  texts = [text.get_text() for text in shown.legends[0].get_texts()]
  assert texts == [f'{name}{n}' for n in range(count)]


def test_lines_are_the_curves():
  one = run('a')
  shown, _ = drawn(one)
  by_steps, by_time, rates, speeds = shown.axes
  training, validation = by_steps.lines
  assert list(training.get_xdata()) == [10, 20, 30]
  assert list(training.get_ydata()) == list(one.training.values)
  assert list(validation.get_ydata()) == list(one.validation['task'].values)
  # Three rows of two seconds.
  assert [list(line.get_xdata()) for line in by_time.lines] == 2 * [[2, 4, 6]]
  assert list(rates.lines[0].get_ydata()) == [0.1, 0.1, 0.1]
  assert list(speeds.lines[0].get_ydata()) == [100, 100, 100]


def test_names_are_not_formulas():
  name = r'$\frac{1}{$ ^_{'
  shown, _ = drawn(run(name, task=name), run(r'$\nothing$'))
  texts = [text.get_text() for text in shown.legends[0].get_texts()]
  assert texts == [name, r'$\nothing$']


def test_initial_drop_is_clipped_with_a_note():
  steps = range(1, 101)
  shown, _ = drawn(run('a', steps))
  low, high = shown.axes[0].get_ylim()
  # At step 10, a tenth of the run, losses are 5.0 and 5.1; at step 1, 15.
  assert low < 4.1 and 5.1 < high < 5.3
  assert 'clipped' in shown.axes[0].get_title(loc='right')


def test_losses_far_apart_have_a_logarithmic_axis():
  shown, _ = drawn(run('a', loss=1e-3), run('b', loss=1e20))
  assert shown.axes[0].get_yscale() == 'log'


@pytest.mark.slow
@pytest.mark.parametrize(
  'rows',
  [
    [{'step': 0, 'collection': 'other'}],
    [{'step': 5, 'collection': 'train', 'loss': None}],
    [{'step': 5, 'collection': 'train', 'loss': 3.0}],
    [
      {
        'step': step,
        'collection': 'train',
        'loss': sign * 1e30,
        'timing/seconds': 1e30,
        'timing/target_tokens_per_second': -1e30,
        'learning_rate': 0,
      }
      for step, sign in ((0, 1), (2**53, -1))
    ],
  ],
)
def test_unusual_runs_are_drawn(rows):
  shown, _ = drawn(curves.run_of_rows('a', rows))
  assert len(shown.axes) == 4
