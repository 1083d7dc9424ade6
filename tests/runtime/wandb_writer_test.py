"""Writer to Weights & Biases, with wandb itself in offline mode."""

import importlib
import importlib.util
import json

import gin
import pytest
from checkout import ROOT

from fnet_t5x.compat import engine
from fnet_t5x.runtime import console, reporting, wandb_writer

VALUES = {
  'loss': 2.5,
  'accuracy': 0.25,
  'learning_rate/current': 0.01,
  'timing/seconds': 2.0,
  'timing/steps_per_second': 4.0,
  'timing/target_tokens_per_second': 12345.0,
}


@pytest.fixture
def _wandb(monkeypatch):
  """Resets wandb's state before and after a test."""
  wandb = pytest.importorskip('wandb')
  wandb.teardown()
  yield
  wandb.teardown()


def bind(project="'tests'"):
  gin.parse_config_file(str(ROOT / 'gin/runs/wandb.gin'))
  gin.parse_config(f'WANDB_PROJECT = {project}\nBATCH_SIZE = 7')


def test_off_by_default(tmp_path, monkeypatch):
  # Not even searched for.
  monkeypatch.setattr(importlib.util, 'find_spec', None)
  assert wandb_writer.open_run(str(tmp_path), resumed=False) is None
  assert not list(tmp_path.iterdir())


def test_missing_wandb_is_one_line(tmp_path, monkeypatch):
  find_spec = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    'find_spec',
    lambda name, *rest: None if name == 'wandb' else find_spec(name, *rest),
  )
  bind()
  with pytest.raises(ImportError, match=r"pip install 'fnet_t5x\[wandb\]'"):
    wandb_writer.open_run(str(tmp_path), resumed=False)


def test_t5x_engine_refuses_it(monkeypatch):
  monkeypatch.setattr(engine, 'USES_T5X', True)
  module = importlib.import_module('fnet_t5x.compat.wandb_writer')
  with pytest.raises(ImportError, match=r'leave gin/runs/wandb\.gin out'):
    importlib.reload(module)


def test_rows_reach_the_run(_wandb, tmp_path, monkeypatch):
  monkeypatch.setenv('WANDB_MODE', 'offline')
  said = []
  monkeypatch.setattr(console, 'print_line', said.append)
  bind()
  for resumed in (False, True):
    reporter = reporting.Reporter(str(tmp_path), 10, 0, resumed=resumed)
    reporter.train(5, VALUES, None)
    reporter.eval(
      5,
      'training_eval/my_task',
      {'cross_ent_per_target_token': 2.125, 'accuracy': 0.5},
    )
    reporter.close()
  # Rows of a resumed run belong to the original run.
  run_id = (tmp_path / wandb_writer.ID_FILE).read_text().strip()
  files = list(tmp_path.glob(f'wandb/offline-run-*/run-{run_id}.wandb'))
  assert files and len(
    list(tmp_path.glob('wandb/offline-run-*/*.wandb'))
  ) == len(files)
  content = files[0].read_bytes()
  for text in (
    'train/learning_rate/current',
    'training_eval/my_task/cross_ent_per_target_token',
    '2.125',
    'BATCH_SIZE',
    'tests',
  ):
    assert text.encode() in content, text
  assert any(line.startswith('Weights & Biases: offline') for line in said)
  # The file is complete without it.
  rows = [json.loads(x) for x in (tmp_path / 'metrics.jsonl').open()]
  assert rows[-1]['cross_ent_per_target_token'] == 2.125


def test_missing_key_is_one_line(_wandb, tmp_path, monkeypatch):
  monkeypatch.setenv('WANDB_MODE', 'online')
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setenv('NETRC', str(tmp_path / 'netrc'))
  monkeypatch.delenv('WANDB_API_KEY', raising=False)
  bind()
  with pytest.raises(ValueError, match='run `wandb login`'):
    wandb_writer.open_run(str(tmp_path), resumed=False)
