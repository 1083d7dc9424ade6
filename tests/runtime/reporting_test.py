"""Reports: `metrics.jsonl` after kills, printed lines and the summary."""

import gc
import io
import json
import os
import pathlib
import random
import re
import shlex
import sys
import time

import pytest
import rich.console
from tensorflow.python.summary import summary_iterator

from fnet_t5x import data_counters
from fnet_t5x.costs import chips
from fnet_t5x.runtime import console, reporting

VALUES = {
  'loss': 2.5,
  'accuracy': 0.25,
  'learning_rate/current': 0.01,
  'timing/seconds': 2.0,
  'timing/steps_per_second': 4.0,
  'timing/target_tokens_per_second': 12345.0,
}
EVALUATION = {'cross_ent_per_target_token': 2.0, 'accuracy': 0.5}


def lines(model_dir):
  return (model_dir / 'metrics.jsonl').read_text().splitlines()


def write(model_dir, *rows):
  (model_dir / 'metrics.jsonl').write_text(
    ''.join(json.dumps(row) + '\n' for row in rows)
  )


def row(step, collection='train', **values):
  return {'step': step, 'collection': collection, **values}


def test_each_report_is_a_line(tmp_path):
  reporter = reporting.Reporter(tmp_path, total_steps=10, first_step=0)
  reporter.train(5, VALUES, flops_per_step=1e12)
  reporter.eval(5, 'training_eval/my_task', EVALUATION)
  reporter.inference_eval(5, 'inference_eval/my_task', {'bleu': 30.0})
  reporter.close()
  assert reporting.read_metrics(tmp_path) == [
    row(5, **VALUES, **{'timing/tflops_per_second': 4.0}),
    row(5, 'training_eval/my_task', **EVALUATION),
    row(5, 'inference_eval/my_task', bleu=30.0),
  ]
  for collection in ('train', 'training_eval/my_task'):
    assert list((tmp_path / collection).glob('events.out.tfevents.*'))


@pytest.mark.slow
def test_reports_use_little_memory(tmp_path):
  reporter = reporting.Reporter(tmp_path, 300, first_step=0)
  names = [f'metric_{i}' for i in range(12)]
  rng = random.Random(0)

  def blocks_after(steps):
    for step in steps:
      values = {name: rng.random() for name in names}
      reporter.inference_eval(step, 'inference_eval/my_task', values)
    gc.collect()
    return sys.getallocatedblocks()

  first = blocks_after(range(100))
  grown = (blocks_after(range(100, 300)) - first) / 200
  reporter.close()
  # Records of reports take 2 blocks; TensorFlow would cache 13 more if it got
  # Python numbers, all of which differ.
  assert grown < 6
  (events,) = (tmp_path / 'inference_eval/my_task').glob('*tfevents*')
  steps = [
    event.step for event in summary_iterator.summary_iterator(str(events))
  ]
  assert steps[-1] == 299


@pytest.mark.parametrize('kept', [[], [row(1), row(2)]])
def test_truncated_line_does_not_affect_others(tmp_path, kept):
  write(tmp_path, *kept)
  with (tmp_path / 'metrics.jsonl').open('a') as f:
    f.write('{"step": 3, "coll')
  assert reporting.read_metrics(tmp_path) == kept
  reporter = reporting.Reporter(tmp_path, 10, first_step=2, resumed=True)
  reporter.train(3, VALUES, None)
  reporter.close()
  assert [json.loads(line) for line in lines(tmp_path)] == [
    *kept,
    row(3, **VALUES),
  ]


def test_invalid_lines_are_skipped_with_a_message(tmp_path, capfd):
  path = tmp_path / 'metrics.jsonl'
  bad = [b'[1, 2]', b'\xff\xfe', b'{"step": "1", "collection": "train"}', b'7']
  good = json.dumps(row(1)).encode()
  path.write_bytes(b'\n'.join([*bad, good, b'{"step": 1, ']))
  reporter = reporting.Reporter(tmp_path, 10, first_step=1, resumed=True)
  reporter.close()
  assert path.read_bytes() == good + b'\n'
  out = capfd.readouterr().out
  assert out == f'{path}: skipped invalid lines: 5\n'


def test_last_line_without_a_newline_counts(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text(json.dumps(row(1)))
  reporter = reporting.Reporter(tmp_path, 10, first_step=1, resumed=True)
  reporter.train(2, VALUES, None)
  reporter.close()
  assert [json.loads(line)['step'] for line in lines(tmp_path)] == [1, 2]


def test_rows_of_repeated_steps_are_dropped(tmp_path):
  rows = [row(step) for step in (1, 2, 3)]
  write(tmp_path, *rows, row(2, 'training_eval/task'))
  reporter = reporting.Reporter(tmp_path, 10, first_step=2, resumed=True)
  assert reporting.read_metrics(tmp_path) == [
    *rows[:2],
    row(2, 'training_eval/task'),
  ]
  assert reporter.has('training_eval/task', 2)
  assert not reporter.has('train', 3)
  assert reporter.has_trained()


def test_data_counters_continue_on_resume(tmp_path):
  def counted(first_step, added, resumed=True):
    reporter = reporting.Reporter(tmp_path, 10, first_step, resumed)
    data_counters.add('skipped_documents', added)
    reporter.train(first_step + 1, VALUES, None)
    reporter.close()
    return reporting.read_metrics(tmp_path)[-1]['data/skipped_documents']

  # As if the process had already counted for another run.
  data_counters.add('skipped_documents', 100)
  try:
    assert counted(0, 2, resumed=False) == 2
    assert counted(1, 3) == 5
    # Killed, and resumed at step 1: later documents are counted again.
    assert counted(1, 3) == 5
    assert counted(2, 1) == 6
    assert counted(0, 2, resumed=False) == 2
  finally:
    data_counters.reset()


def test_new_run_drops_all_rows(tmp_path):
  write(tmp_path, row(0, 'training_eval/task'), row(1))
  reporter = reporting.Reporter(tmp_path, 10, first_step=0)
  assert reporting.read_metrics(tmp_path) == []
  assert not reporter.has_trained()


def test_run_without_metrics_has_no_rows(tmp_path):
  assert reporting.read_metrics(tmp_path) == []


def test_nan_is_null(tmp_path):
  reporter = reporting.Reporter(tmp_path, 10, 0)
  reporter.train(1, {**VALUES, 'loss': float('nan')}, None)
  reporter.close()
  (line,) = lines(tmp_path)
  assert 'NaN' not in line
  assert json.loads(line)['loss'] is None


def test_line_has_the_rate_and_the_time_left(tmp_path, monkeypatch, capfd):
  clock = iter([100.0, 100.0, 103.0])
  monkeypatch.setattr(reporting.jax, 'default_backend', lambda: 'tpu')
  monkeypatch.setattr(reporting.time, 'perf_counter', lambda: next(clock))
  monkeypatch.setattr(reporting.jax, 'device_count', lambda: 2)
  monkeypatch.setattr(reporting.chips, 'peak_flops', lambda kind: 1e13)
  reporter = reporting.Reporter(tmp_path, total_steps=1500, first_step=100)
  # Two seconds for eight steps: training began at 98, and 1392 steps are left.
  reporter.train(108, VALUES, flops_per_step=1e12)
  # Then five seconds for ten steps.
  reporter.train(110, VALUES, flops_per_step=None)
  first, second = capfd.readouterr().out.splitlines()
  assert first == (
    'step  108/1500  loss 2.5000  acc 0.250  12.3k tok/s  20% of peak  '
    '5m48s left'
  )
  assert second == (
    'step  110/1500  loss 2.5000  acc 0.250  lr 1.0e-02  12.3k tok/s  '
    '11m35s left'
  )
  assert max(len(first), len(second)) <= 80


def test_cpu_line_has_no_flops_rate(tmp_path, capfd):
  reporter = reporting.Reporter(tmp_path, total_steps=10, first_step=0)
  reporter.train(5, VALUES, flops_per_step=1e12)
  assert capfd.readouterr().out == (
    'step  5/10  loss 2.5000  acc 0.250  lr 1.0e-02  12.3k tok/s  0m02s left\n'
  )
  (row,) = reporting.read_metrics(tmp_path)
  assert row['timing/tflops_per_second'] == 4.0


def test_largest_numbers_fit_a_line(tmp_path, monkeypatch, capfd):
  monkeypatch.setattr(reporting.jax, 'default_backend', lambda: 'tpu')
  reporter = reporting.Reporter(tmp_path, 10_000_000, first_step=0)
  values = {
    **VALUES,
    'loss': 123456.789,
    'timing/seconds': 1e5,
    'timing/target_tokens_per_second': 12.3e6,
  }
  reporter.train(1_000_000, values, flops_per_step=1e12)
  reporter.eval(
    1_000_000,
    'training_eval/a_task_whose_name_is_quite_long',
    {**EVALUATION, 'bits_per_byte': 1.2345},
  )
  reporter.inference_eval(
    1_000_000,
    'inference_eval/my_task',
    {f'a_metric_{number}': 1e3 / 7 for number in range(8)},
  )
  lines = capfd.readouterr().out.splitlines()
  assert max(map(len, lines)) <= 80, lines
  train, evaluation, name, *inference = lines
  assert 'loss 1.235e+05' in train and '12.3M tok/s' in train
  assert evaluation == (
    'step  1000000/10000000  validation loss 2.0000  acc 0.500  1.234 bits/byte'
  )
  assert name == '  a_task_whose_name_is_quite_long'
  assert sum(line.count('a_metric_') for line in inference) == 8


def test_long_times_show_hours():
  assert reporting.duration(59.6) == '1m00s'
  assert reporting.duration(3 * 3600 + 125) == '3h02m'


def test_bar_moves_on_a_terminal_only(monkeypatch, capfd):
  assert console.progress(10, 0) is None
  console.print_line('a [b]path[/b] :100: ' + 'x' * 200)
  assert capfd.readouterr().out == 'a [b]path[/b] :100: ' + 'x' * 200 + '\n'

  screen = io.StringIO()
  terminal = rich.console.Console(file=screen, force_terminal=True, width=80)
  monkeypatch.setattr(console, '_CONSOLE', terminal)
  bar = console.progress(10, 4)
  bar.advance(bar.task_ids[0])
  bar.refresh()
  console.print_line('a line')
  bar.stop()
  text = re.sub(r'\x1b\[[0-9;?]*[a-zA-Z]', '', screen.getvalue())
  assert '5/10' in text
  assert 'a line' in text


def test_watching_batches_moves_the_bar(tmp_path, monkeypatch):
  screen = io.StringIO()
  terminal = rich.console.Console(file=screen, force_terminal=True, width=80)
  monkeypatch.setattr(console, '_CONSOLE', terminal)
  reporter = reporting.Reporter(tmp_path, total_steps=9, first_step=3)
  batches = reporter.watch(iter('abcd'))
  # No bar before the first step, during compilation.
  assert screen.getvalue() == ''
  # A requested batch is a step that has started, not one that is done.
  assert [next(batches) for _ in range(3)] == ['a', 'b', 'c']
  (task,) = reporter._bar.tasks
  assert task.completed == 5
  with reporter.busy('evaluating'):
    assert task.description == 'evaluating'
  assert task.description == 'step'
  # The bar shows the time left, and the line does not.
  reporter.train(6, VALUES, None)
  assert task.completed == 6
  reporter.close()
  text = re.sub(r'\x1b\[[0-9;?]*[a-zA-Z]', '', screen.getvalue())
  (line,) = [x for x in text.splitlines() if 'loss' in x]
  assert line.rstrip().endswith('tok/s')


def test_long_waits_are_printed(monkeypatch, capfd):
  with console.waiting('doing nothing', seconds=5.0):
    pass
  with console.waiting('reading', seconds=0.05):
    time.sleep(0.5)
    assert capfd.readouterr().out == 'reading ...\n'
  assert capfd.readouterr().out == ''


def test_unwritable_folder_is_one_line(tmp_path):
  (tmp_path / 'file').write_text('')
  folder = str(tmp_path / 'file' / 'folder')
  with pytest.raises(OSError, match='OUTPUT_DIR') as error:
    reporting.check_writable(folder, 'OUTPUT_DIR')
  assert folder in str(error.value) and '\n' not in str(error.value)
  reporting.check_writable(str(tmp_path / 'new'), 'OUTPUT_DIR')
  assert not list((tmp_path / 'new').iterdir())


@pytest.mark.parametrize(
  ('kind', 'tera'),
  [
    ('TPU v4', 275),
    ('TPU v5 lite', 197),
    ('NVIDIA H100 80GB HBM3', 989),
    ('NVIDIA A100-SXM4-40GB', 312),
    ('cpu', None),
  ],
)
def test_peak_flops_of_known_chips(kind, tera):
  assert chips.peak_flops(kind) == (tera and tera * 1e12)


def train(step, loss):
  return {'step': step, 'collection': 'train', 'loss': loss}


def evaluation(step, loss, task='task', **values):
  return {
    'step': step,
    'collection': f'training_eval/{task}',
    'cross_ent_per_target_token': loss,
    'accuracy': 0.5,
    **values,
  }


def test_results_are_the_last_ones(tmp_path):
  write(
    tmp_path,
    evaluation(0, 9.0),
    train(10, 5.0),
    train(20, 4.0),
    evaluation(20, 3.0, bits_per_byte=1.25),
  )
  lines = reporting.results(str(tmp_path), 1200, 65.0, saved_step=20)
  time, *rest = lines
  assert time.startswith('trained 1,200 steps in 1m05s; peak memory ')
  assert rest == [
    '  train loss 4.0000',
    '  validation loss 3.0000  acc 0.500  1.250 bits/byte',
    'last checkpoint:',
    f'  {tmp_path}/checkpoint_20',
  ]


def test_several_tasks_are_named_and_missing_metrics_omitted(tmp_path):
  write(
    tmp_path,
    {**train(10, None)},
    evaluation(10, 3.0, 'a'),
    evaluation(10, 2.0, 'b'),
    evaluation(10, None, 'c'),
  )
  _, *rest = reporting.results(str(tmp_path), 10, 5.0, saved_step=None)
  assert rest == [
    '  validation loss 3.0000  acc 0.500  a',
    '  validation loss 2.0000  acc 0.500  b',
  ]


def test_foreign_rows_do_not_end_a_run(tmp_path):
  write(
    tmp_path,
    {'step': 1, 'collection': 'train'},
    {'step': 1, 'collection': 'training_eval/a'},
    evaluation(1, 'low', 'b'),
    evaluation(1, 3.0, 'c', bits_per_byte='few'),
  )
  _, *rest = reporting.results(str(tmp_path), 10, 5.0, saved_step=None)
  assert rest == []


@pytest.mark.parametrize('folder', ['runs/mine', "my runs/it's $HOME; x"])
def test_commands_can_be_pasted(folder):
  generate, evaluate = reporting.commands(folder)
  python, *rest = shlex.split(generate)
  flag = f'--model_dir={folder}'
  assert rest == ['-m', 'fnet_t5x.generate', flag, '--prompt=...']
  assert shlex.split(evaluate) == [python, '-m', 'fnet_t5x.eval', flag]


def executable(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.symlink_to(sys.executable)
  return str(path)


def test_interpreter_command(tmp_path, monkeypatch):
  venv = executable(tmp_path / '.venv/bin/python3')
  executable(tmp_path / '.venv/bin/python')
  executable(tmp_path / 'other bin/python')
  monkeypatch.setattr(sys, 'executable', venv)
  monkeypatch.chdir(tmp_path)

  # The interpreter on the PATH.
  monkeypatch.setenv('PATH', str(tmp_path / '.venv/bin'))
  assert reporting.interpreter() == 'python'
  # Another one on the PATH, although links to the same file.
  monkeypatch.setenv('PATH', str(tmp_path / 'other bin'))
  assert reporting.interpreter() == '.venv/bin/python3'
  (tmp_path / 'elsewhere').mkdir()
  monkeypatch.chdir(tmp_path / 'elsewhere')
  assert reporting.interpreter() == venv
  monkeypatch.setattr(sys, 'executable', str(tmp_path / 'other bin/python'))
  monkeypatch.setenv('PATH', os.devnull)
  assert shlex.split(reporting.interpreter()) == [
    str(pathlib.Path(tmp_path) / 'other bin/python')
  ]
