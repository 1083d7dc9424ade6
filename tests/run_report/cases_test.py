"""Cases of a sweep: curves by seed, and their spread."""

import json

import pytest

from fnet_t5x.run_report import case_figure, cases


def rows_of(values, seconds=2.0):
  for step, value in enumerate(values):
    yield {
      'step': step,
      'collection': 'train',
      'timing/seconds': seconds,
      'timing/steps_per_second': 1 / seconds,
    }
    yield {'step': step, 'collection': 'training_eval/a', 'accuracy': value}


@pytest.fixture
def case(tmp_path):
  """Three seeds; the last one has one evaluation less."""
  folders = {}
  for seed, values in enumerate(([0, 0.5, 0.8], [0, 0.1, 0.6], [0, 0.3]), 1):
    folders[seed] = tmp_path / str(seed)
    folders[seed].mkdir()
    (folders[seed] / 'metrics.jsonl').write_text(
      ''.join(json.dumps(row) + '\n' for row in rows_of(values, seed))
    )
  return cases.read('hybrid', folders, 'accuracy')


def test_last_values_and_speed(case):
  assert case.finals == [0.8, 0.6, 0.3]
  assert case.speed == 0.5


def test_band_is_the_median_where_all_seeds_have_a_value(case):
  band = case.band()
  assert band.steps == [0, 1]
  assert band.values == [0, 0.3]
  assert band.seconds == [2, 4]
  assert case.extremes() == ([0, 0.1], [0, 0.5])


def test_figure_is_a_picture(case):
  pytest.importorskip('matplotlib')
  assert case_figure.draw([case, case], 'accuracy').startswith(b'\x89PNG')


def test_a_collection_chooses_between_evaluations():
  rows = [
    {'step': 1, 'collection': 'training_eval/a', 'loss': 1.0},
    {'step': 1, 'collection': 'training_eval/b', 'loss': 2.0},
  ]
  with pytest.raises(ValueError, match='training_eval/a:loss, training_eval/b'):
    cases.metric_curve(rows, 'loss', 'x, seed 1')
  curve = cases.metric_curve(rows, 'training_eval/b:loss', 'x, seed 1')
  assert curve.values == [2.0]


@pytest.mark.parametrize(
  ('value', 'message'),
  [(float('nan'), 'never a finite'), (None, 'never a finite')],
)
def test_values_that_are_no_numbers(value, message):
  rows = [{'step': 1, 'collection': 'training_eval/a', 'loss': value}]
  with pytest.raises(ValueError, match=f'x, seed 1: .*{message}'):
    cases.metric_curve(rows, 'loss', 'x, seed 1')


def test_missing_metric_names_those_there_are():
  rows = [{'step': 1, 'collection': 'training_eval/a', 'loss': 1.0}]
  with pytest.raises(ValueError, match='metric accuracy; it has loss'):
    cases.metric_curve(rows, 'accuracy', 'x, seed 1')
