"""Curves of runs, against numbers computed by hand."""

import json
import os
import random

import pytest

from fnet_t5x.run_report import curves

TASK = 'training_eval/my_task'


def train(step, seconds=2.0, **values):
  return {
    'step': step,
    'collection': 'train',
    'timing/seconds': seconds,
    **values,
  }


def evaluation(step, loss, task=TASK, **values):
  return {
    'step': step,
    'collection': task,
    'cross_ent_per_target_token': loss,
    **values,
  }


def write(folder, *rows):
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'metrics.jsonl').write_text(
    ''.join(json.dumps(row) + '\n' for row in rows)
  )
  return str(folder)


# Evaluated before step 1, stopped at 25, resumed: one part of ten steps and
# one of five to step 30.
ROWS = [
  evaluation(0, 9.0),
  train(10, 4.0, cross_ent_per_target_token=7.0, loss=70.0),
  train(20, 3.0, cross_ent_per_target_token=5.0, loss=50.0),
  evaluation(20, 5.5),
  train(25, 1.5, cross_ent_per_target_token=4.0, loss=40.0),
  train(30, 2.5, cross_ent_per_target_token=4.5, loss=45.0),
  evaluation(30, 6.0, bits_per_byte=1.25),
]


def test_time_is_summed_over_parts_of_a_run():
  run = curves.run_of_rows('a', ROWS)
  assert run.training == curves.Curve(
    [10, 20, 25, 30], [4.0, 7.0, 8.5, 11.0], [7.0, 5.0, 4.0, 4.5]
  )
  assert run.validation == {
    'my_task': curves.Curve([0, 20, 30], [0.0, 7.0, 11.0], [9.0, 5.5, 6.0])
  }
  assert run.validation['my_task'].best == (20, 5.5)
  assert (run.step, run.seconds) == (30, 11.0)
  assert run.bits_per_byte == {'my_task': 1.25}
  assert run.notes == []


def test_order_of_rows_does_not_matter():
  shuffled = random.Random(0).sample(ROWS, len(ROWS))
  assert curves.run_of_rows('a', shuffled) == curves.run_of_rows('a', ROWS)


def test_last_row_of_a_step_counts():
  wrong = train(20, 100.0, cross_ent_per_target_token=99.0)
  run = curves.run_of_rows('a', [wrong, *ROWS])
  assert run.training == curves.run_of_rows('a', ROWS).training
  assert run.notes == ['1 row replaced by later rows of the same step']


@pytest.mark.parametrize(
  'value', [None, 'low', True, [1], {}, float('nan'), float('inf'), 10**400]
)
def test_values_that_are_not_numbers_are_skipped_and_counted(value):
  rows = [*ROWS, train(40, 2.0, cross_ent_per_target_token=value)]
  run = curves.run_of_rows('a', rows)
  assert run.training.steps == [10, 20, 25, 30]
  assert run.seconds == 13.0
  assert run.notes == ['1 value skipped: not a finite number']


@pytest.mark.parametrize('seconds', [None, 'long', -5.0])
def test_rows_without_a_duration_are_noted(seconds):
  run = curves.run_of_rows('a', [train(1, seconds), train(2, 3.0)])
  assert run.seconds == 3.0
  assert '1 row without a duration: not in the training time' in run.notes


def test_other_names_of_metrics():
  old = curves.run_of_rows(
    'a', [train(1, loss=3.0, learning_rate=0.5), train(2, loss=2.0)]
  )
  assert old.training.values == [3.0, 2.0]
  assert old.learning_rate.values == [0.5]
  assert 'LOSS_NORMALIZING_FACTOR' in old.notes[0]
  rate = {'learning_rate': 0.5, 'learning_rate/current': 0.25}
  new = curves.run_of_rows('a', [train(1, **rate)])
  assert new.learning_rate.values == [0.25]


def test_run_that_was_only_evaluated():
  run = curves.run_of_rows('a', [evaluation(7, 3.0)])
  assert run.training.values == () or list(run.training.values) == []
  assert run.validation['my_task'].values == [3.0]
  assert (run.step, run.seconds, run.steps_per_second) == (7, 0.0, None)


def test_speed_is_a_median():
  rows = [
    train(n, **{'timing/steps_per_second': rate, curves.SPEED: 10 * rate})
    for n, rate in enumerate([1.0, 4.0, 100.0])
  ]
  run = curves.run_of_rows('a', rows)
  assert run.steps_per_second == 4.0
  assert run.speed.values == [10.0, 40.0, 1000.0]


def test_predictions_keep_the_last_metrics():
  rows = [
    evaluation(step, 1.0, 'inference_eval/task', bleu=bleu, note='text')
    for step, bleu in ((5, 10.0), (10, 30.0))
  ]
  run = curves.run_of_rows('a', rows)
  assert run.predictions['task'][0] == 10
  assert run.predictions['task'][1]['bleu'] == 30.0
  assert 'note' not in run.predictions['task'][1]


def test_more_tasks_than_can_be_shown():
  rows = [evaluation(1, 1.0, f'training_eval/t{n}') for n in range(9)]
  run = curves.run_of_rows('a', rows)
  assert list(run.validation) == [f't{n}' for n in range(6)]
  assert run.notes[0].startswith('3 tasks of training_eval not shown')


def test_unprintable_and_long_names():
  row = evaluation(1, 1.0, 'training_eval/a\nb\ud800\x1b[2J' + 90 * 'x')
  (name,) = curves.run_of_rows('a', [row]).validation
  assert name.isprintable() and len(name) <= 40
  name.encode()


@pytest.mark.parametrize(
  'paths, names',
  [
    (['/r/a'], ['a']),
    (['/r/a', '/r/b'], ['a', 'b']),
    (['/r/a/s0', '/r/b/s0', '/r/a/s1'], ['a/s0', 'b/s0', 's1']),
    (['/r/a/model', '/r/b/model'], ['a', 'b']),
    (['/x', '/x/x'], ['/x', 'x/x']),
    (
      [f'/r/{60 * "y"}{n}{60 * "z"}' for n in 'ab'],
      [f'{20 * "y"}…{19 * "z"} #{n}' for n in (1, 2)],
    ),
  ],
)
def test_shortest_unique_names(paths, names):
  assert curves.short_names(paths) == names


def test_runs_of_folders(tmp_path):
  one = write(tmp_path / 'a/run', *ROWS)
  two = write(tmp_path / 'b/run', ROWS[1])
  runs = curves.read_runs([one, two, one + '/'])
  assert [run.name for run in runs] == ['a', 'b']
  assert runs[0].training == curves.run_of_rows('a', ROWS).training
  assert 'no config.gin: its macros are unknown' in runs[0].notes
  with open(one + '/metrics.jsonl', 'a') as f:
    f.write('{"step": 3, "coll')
  notes = curves.read_runs([one])[0].notes
  assert notes[0] == '1 line skipped: not a row of metrics'


def test_macros_are_read_without_running_anything(tmp_path):
  write(tmp_path, *ROWS)
  secret = tmp_path / 'secret'
  secret.write_text("SECRET = 'told'\n")
  config = tmp_path / 'config.gin'
  config.write_text(
    f"import os\ninclude '{secret}'\n"
    'BATCH_SIZE = 128\nMODEL = @models.EncoderDecoderModel()\n'
    'models.EncoderDecoderModel:\n  z_loss = %Z_LOSS\n'
  )
  run = curves.read_run(str(tmp_path), 'a')
  assert run.macros == {
    'BATCH_SIZE': '128',
    'MODEL': '@models.EncoderDecoderModel()',
  }
  assert run.notes == []


@pytest.mark.parametrize(
  'content', [b'BATCH_SIZE = (', b'A = ' + 9999 * b'[', b'\xff', b'no gin !']
)
def test_configuration_that_is_not_gin(tmp_path, content):
  write(tmp_path, *ROWS)
  (tmp_path / 'config.gin').write_bytes(content)
  run = curves.read_run(str(tmp_path), 'a')
  assert run.macros == {}
  assert run.notes == ['config.gin is not valid gin: its macros are unknown']


def test_folders_without_a_run(tmp_path):
  with pytest.raises(FileNotFoundError, match='nowhere: no such folder'):
    curves.read_run(str(tmp_path / 'nowhere'), 'a')
  with pytest.raises(FileNotFoundError, match='not a local folder'):
    curves.read_run('gs://bucket/run', 'a')
  with pytest.raises(FileNotFoundError, match=r'no metrics.jsonl in it; name'):
    curves.read_run(str(tmp_path), 'a')
  write(tmp_path / 'run', *ROWS)
  with pytest.raises(FileNotFoundError, match=r'did you mean .*/run\?'):
    curves.read_run(str(tmp_path), 'a')
  (tmp_path / 'run/metrics.jsonl').write_text('{"step\n\n[]\n')
  with pytest.raises(ValueError, match=r'no rows \(2 lines skipped\)'):
    curves.read_run(str(tmp_path / 'run'), 'a')
  # Reading a pipe would block forever.
  os.remove(tmp_path / 'run/metrics.jsonl')
  os.mkfifo(tmp_path / 'run/metrics.jsonl')
  with pytest.raises(FileNotFoundError, match=r'no metrics.jsonl in it'):
    curves.read_run(str(tmp_path / 'run'), 'a')


@pytest.mark.parametrize(
  'seconds, unit', [(90, (1, 's')), (600, (60, 'min')), (9000, (3600, 'h'))]
)
def test_units_of_time(seconds, unit):
  assert curves.time_unit(seconds) == unit
