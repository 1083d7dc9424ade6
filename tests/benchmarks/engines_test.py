"""The benchmark of engines at tiny lengths: calls, table and JSON."""

import importlib.util
import json

import jax
import numpy as np
import pytest

from fnet_t5x.benchmarks import engines

LENGTHS = engines.Lengths(batch=8, inputs=6, targets=4, new_tokens=3)
OPTIONS = ['--batch', '8', '--inputs', '6', '--targets', '4', '--quick']


@pytest.fixture
def without_t5x(monkeypatch):
  find_spec = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    'find_spec',
    lambda name: None if name == 't5x' else find_spec(name),
  )


@pytest.mark.slow
@pytest.mark.parametrize('what', ['train step', 'beam 4'])
def test_prints_the_table_and_writes_json(without_t5x, tmp_path, capsys, what):
  path = tmp_path / 'engines.json'
  engines.main(
    [
      *OPTIONS,
      *('--sizes', 'tiny', '--new-tokens', '3', '--json', str(path)),
      *('--what', what),
    ]
  )
  said = capsys.readouterr().out
  assert f'tiny, {what}' in said
  assert 'T5X is not importable' in said
  content = json.loads(path.read_text())
  assert content['settings']['new_tokens'] == 3
  assert [(row['engine'], row['network']) for row in content['rows']] == [
    ('runtime', 'our T5'),
    ('runtime', 'our hybrid'),
  ]
  for row in content['rows']:
    assert 0 < row['least_seconds'] <= row['median_seconds']
  assert content['rows'][0]['speedup'] == 1


@pytest.mark.slow
def test_a_training_call_runs_its_steps():
  call = engines.train_call('runtime', 'our hybrid', 'tiny', LENGTHS, steps=2)
  before = jax.tree.map(np.array, call())
  after = call()
  changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), before, after)
  assert all(jax.tree.leaves(changed))


@pytest.mark.slow
def test_generation_fills_every_position():
  call = engines.generate_call(
    'runtime', 'our hybrid', 'tiny', LENGTHS, 'greedy'
  )
  tokens, _ = call()
  assert tokens.shape == (LENGTHS.batch, LENGTHS.new_tokens)


@pytest.mark.parametrize(
  ('arguments', 'line'),
  [
    (['--sizes', 'huge'], '--sizes huge: choose from base, '),
    (['--batch', '0'], 'at least 1'),
    (['--what', 'nothing'], 'invalid choice'),
    (['--json', '/nowhere/x.json'], 'there is no folder /nowhere'),
  ],
)
def test_bad_input_is_one_line(capsys, arguments, line):
  with pytest.raises(SystemExit) as error:
    engines.main(arguments)
  assert error.value.code == 2
  assert line in capsys.readouterr().err.splitlines()[-1]
