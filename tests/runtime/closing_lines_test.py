"""A run's last lines: its results, and commands that a shell understands."""

import os
import pathlib
import shlex
import sys

import pytest

from fnet_t5x.runtime import closing_lines, reporting


def write(model_dir, *rows):
  (model_dir / reporting.METRICS_FILE).write_text(
    ''.join(map(reporting.json_line, rows))
  )


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
  lines = closing_lines.results(str(tmp_path), 1200, 65.0, saved_step=20)
  time, *rest = lines
  assert time.startswith('trained 1,200 steps in 1m05s; peak memory ')
  assert rest == [
    '  train loss 4.0000',
    '  validation loss 3.0000  acc 0.500  1.250 bits/byte',
    'last checkpoint:',
    f'  {tmp_path}/checkpoint_20',
  ]


def test_several_tasks_are_named_and_what_is_missing_left_out(tmp_path):
  write(
    tmp_path,
    {**train(10, None)},
    evaluation(10, 3.0, 'a'),
    evaluation(10, 2.0, 'b'),
    evaluation(10, None, 'c'),
  )
  _, *rest = closing_lines.results(str(tmp_path), 10, 5.0, saved_step=None)
  assert rest == [
    '  validation loss 3.0000  acc 0.500  a',
    '  validation loss 2.0000  acc 0.500  b',
  ]


def test_rows_of_others_do_not_end_a_run(tmp_path):
  write(
    tmp_path,
    {'step': 1, 'collection': 'train'},
    {'step': 1, 'collection': 'training_eval/a'},
    evaluation(1, 'low', 'b'),
    evaluation(1, 3.0, 'c', bits_per_byte='few'),
  )
  _, *rest = closing_lines.results(str(tmp_path), 10, 5.0, saved_step=None)
  assert rest == []


@pytest.mark.parametrize('folder', ['runs/mine', "my runs/it's $HOME; x"])
def test_commands_can_be_pasted(folder):
  generate, evaluate = closing_lines.commands(folder)
  python, *rest = shlex.split(generate)
  flag = f'--model_dir={folder}'
  assert rest == ['-m', 'fnet_t5x.generate', flag, '--prompt=...']
  assert shlex.split(evaluate) == [python, '-m', 'fnet_t5x.eval', flag]


def executable(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.symlink_to(sys.executable)
  return str(path)


def test_interpreter_is_named_as_the_user_would(tmp_path, monkeypatch):
  venv = executable(tmp_path / '.venv/bin/python3')
  executable(tmp_path / '.venv/bin/python')
  executable(tmp_path / 'other bin/python')
  monkeypatch.setattr(sys, 'executable', venv)
  monkeypatch.chdir(tmp_path)

  # The one of the PATH.
  monkeypatch.setenv('PATH', str(tmp_path / '.venv/bin'))
  assert closing_lines.interpreter() == 'python'
  # Another on the PATH, although the same file in the end.
  monkeypatch.setenv('PATH', str(tmp_path / 'other bin'))
  assert closing_lines.interpreter() == '.venv/bin/python3'
  (tmp_path / 'elsewhere').mkdir()
  monkeypatch.chdir(tmp_path / 'elsewhere')
  assert closing_lines.interpreter() == venv
  monkeypatch.setattr(sys, 'executable', str(tmp_path / 'other bin/python'))
  monkeypatch.setenv('PATH', os.devnull)
  assert shlex.split(closing_lines.interpreter()) == [
    str(pathlib.Path(tmp_path) / 'other bin/python')
  ]
