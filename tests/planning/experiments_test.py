"""Experiments on C4 and the Pile: valid configurations, up-to-date plans."""

import json
import math
import pathlib
import shlex

import jax
import pytest

from fnet_t5x.costs import flops
from fnet_t5x.gin_root import gin_root
from fnet_t5x.planning import gin_run, tables, topology

ROOT = pathlib.Path(gin_root())
SIZES = ('small', 'base', 'large', 'xl', 'xxl')
SOURCES = ('c4', 'pile')


@pytest.mark.slow
@pytest.mark.parametrize('source', SOURCES)
@pytest.mark.parametrize('size', SIZES)
def test_the_plan_is_of_the_run(size, source):
  name = f'gin/experiments/{size}_{source}_span_corruption.gin'
  path = tables.plan_of(ROOT / name, tables.DOCS / tables.PLANS)
  content = json.loads(path.read_text())
  (plan,) = content['plans']
  with gin_run.configured([name], []) as run:
    variables = jax.eval_shape(
      lambda: run.model.get_initial_variables(
        jax.random.PRNGKey(0),
        {'encoder_input_tokens': (1, 8), 'decoder_input_tokens': (1, 8)},
      )
    )
    # T5's: a million steps on batches of 2^11 rows of 512 tokens.
    assert run.total_steps == plan['total_steps'] == 10**6
    assert run.batch['encoder_input_tokens'].shape == (2**11, 512)
    assert run.batch_size == plan['batch_size']
    assert run.tokens == plan['tokens']
    assert run.batch_size % run.num_microbatches == 0
    training = flops.batch_flops(run.config, run.batch, 'tpu')
  # With the precision of the page: two decimals of GFLOPs per token.
  assert plan['training_flops'] / plan['tokens'] == pytest.approx(
    training / plan['tokens'], abs=0.006e9
  )
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(variables['params']))
  assert plan['parameters']['total'] == count
  assert plan['train']['memory'] < plan['hbm_available']
  assert math.prod(plan['mesh'].values()) == plan['devices']
  assert topology.parse(plan['topology']).is_tpu
  assert content['thorough'] and content['gin_bindings'] == []
  (planned,) = content['gin_files']
  assert f'--gin_file={planned}' in shlex.split(content['command'])
  assert f'--topology={plan["topology"]}' in shlex.split(content['command'])
  assert tables.plan_of(ROOT / planned, path.parent) == path


@pytest.mark.parametrize('size', SIZES)
def test_source_changes_no_program(size):
  """The reason that both share one plan."""
  runs = []
  for source in SOURCES:
    name = f'gin/experiments/{size}_{source}_span_corruption.gin'
    with gin_run.configured([name], []) as run:
      runs.append(
        (run.config, run.batch, run.num_microbatches, run.total_steps)
      )
  assert runs[0] == runs[1]
