"""Whole runs on C4 and the Pile: they configure, and say what they are."""

import math
import pathlib
import re

import jax
import pytest

from fnet_t5x.gin_root import gin_root
from fnet_t5x.planning import gin_run, topology

FOLDER = pathlib.Path(gin_root()) / 'gin/experiments'
SIZES = ('small', 'base', 'large', 'xl', 'xxl')
SOURCES = ('c4', 'pile')


@pytest.mark.parametrize('source', SOURCES)
@pytest.mark.parametrize('size', SIZES)
def test_the_head_is_of_the_run(size, source):
  name = f'gin/experiments/{size}_{source}_span_corruption.gin'
  head = (FOLDER / pathlib.Path(name).name).read_text().split('\n\n')[0]
  with gin_run.configured([name], []) as run:
    variables = jax.eval_shape(
      lambda: run.model.get_initial_variables(
        jax.random.PRNGKey(0),
        {'encoder_input_tokens': (1, 8), 'decoder_input_tokens': (1, 8)},
      )
    )
    # T5's: a million steps on batches of 2^11 rows of 512 tokens.
    assert run.total_steps == 10**6
    assert run.batch['encoder_input_tokens'].shape == (2**11, 512)
    assert run.batch_size % run.num_microbatches == 0
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(variables['params']))
  assert f'#   {count:,} parameters, ' in head
  needed, there = re.search(
    r'([\d.]+) GiB a device, which has ([\d.]+)', head
  ).groups()
  assert float(needed) < float(there)
  slice_name = re.search(r'planned for (\S+),', head)[1]
  assert f'--topology={slice_name} ' in head
  assert topology.parse(slice_name)
  assert head.count(f'--gin_file={name}') == 2
