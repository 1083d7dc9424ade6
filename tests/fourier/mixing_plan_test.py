"""Plan chosen for a batch on each backend, and sharding of its arrays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from fnet_t5x.backend import target_backend
from fnet_t5x.fourier import reference
from fnet_t5x.fourier.mixing import make_mixing_plan, mix
from fnet_t5x.fourier.plans import (
  BluesteinPlan,
  FFTPlan,
  FoldedPlan,
  FullRowsPlan,
  MatricesPlan,
)

BATCH, LENGTH, EMBED = 3, 8, 6
ROW_LENGTHS = [8, 5, 0]
MASK = np.arange(LENGTH)[None, :] < np.array(ROW_LENGTHS)[:, None]
POSITIONS = np.broadcast_to(np.arange(LENGTH), MASK.shape)
PADDED, EXACT = {'lengths': 'padded'}, {}
BLUESTEIN, PACKED = {'length_method': 'fft'}, {'positions': POSITIONS}
MATMUL = {'method': 'matmul'}

# By backend and arguments: the plan, whether full rows use the FFT instead, the
# method for features, and whether matrices compute all of them.
CHOICES = [
  ('cpu', PADDED, FFTPlan, False, 'fft', None),
  ('gpu', PADDED, FFTPlan, False, 'fft', None),
  ('tpu', PADDED, MatricesPlan, False, 'matmul', True),
  ('cpu', PADDED | MATMUL, MatricesPlan, False, 'matmul', False),
  ('cpu', EXACT, FoldedPlan, True, 'fft', None),
  ('gpu', EXACT, MatricesPlan, True, 'matmul', True),
  ('tpu', EXACT, MatricesPlan, False, 'matmul', True),
  ('cpu', MATMUL, MatricesPlan, False, 'matmul', False),
  ('tpu', {'method': 'fft'}, BluesteinPlan, True, 'fft', None),
  ('cpu', BLUESTEIN, BluesteinPlan, True, 'fft', None),
  ('gpu', BLUESTEIN, BluesteinPlan, True, 'fft', None),
  ('tpu', BLUESTEIN, BluesteinPlan, False, 'matmul', None),
  ('cpu', PACKED, MatricesPlan, False, 'fft', False),
  ('gpu', PACKED, MatricesPlan, False, 'matmul', True),
  ('tpu', PACKED, MatricesPlan, False, 'matmul', True),
]


def make_plan(**arguments):
  return make_mixing_plan(MASK.astype(np.int32), embed=EMBED, **arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('backend', 'arguments', 'kind', 'full_rows', 'features', 'all_features'),
  CHOICES,
)
def test_the_plan_of_each_backend(
  backend, arguments, kind, full_rows, features, all_features
):
  with target_backend(backend):
    plan = make_plan(**arguments)
  assert plan.embed_dft.method == features
  assert isinstance(plan, FullRowsPlan) == full_rows
  if full_rows:
    assert plan.full.tolist() == [True, False, False]
    # Whole rows use the FFT on these backends, over features too.
    assert plan.fft.embed_dft.method == 'fft'
    plan = plan.ragged
  assert type(plan) is kind
  assert getattr(plan, 'all_features', None) == all_features


@pytest.mark.slow
@pytest.mark.parametrize('backend', ['cpu', 'gpu', 'tpu'])
@pytest.mark.parametrize('arguments', [EXACT, PACKED, BLUESTEIN])
def test_a_plan_keeps_its_way_wherever_it_is_used(backend, arguments):
  x = np.random.default_rng(0).normal(size=(BATCH, LENGTH, EMBED))
  with target_backend(backend):
    plan = make_plan(**arguments)
    there = str(jax.make_jaxpr(mix)(jnp.float32(x), plan))
  # The plan determines the program, not the backend that it is traced on.
  assert str(jax.make_jaxpr(mix)(jnp.float32(x), plan)) == there
  y = np.asarray(mix(jnp.float32(x), plan), np.float64)
  expected = reference.mix_exact(x, ROW_LENGTHS)
  assert np.abs(y - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize('all_features', [True, False])
def test_matrices_over_all_features_are_those_over_half(all_features):
  plan = make_plan(**MATMUL)
  plan = dataclasses.replace(plan, all_features=all_features)
  x = np.random.default_rng(0).normal(size=(BATCH, LENGTH, EMBED))
  program = jax.jit(mix).lower(jnp.float32(x), plan).as_text()
  # cos and sin over features in a single product, or in two.
  assert program.count('stablehlo.dot_general') == (2 if all_features else 3)
  y = np.asarray(mix(jnp.float32(x), plan), np.float64)
  expected = reference.mix_exact(x, ROW_LENGTHS)
  assert np.abs(y - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize('arguments', [PADDED, EXACT, BLUESTEIN, PACKED])
@pytest.mark.parametrize('method', ['auto', 'matmul'])
def test_arrays_of_rows_are_laid_out_as_rows(arguments, method):
  plan = make_plan(method=method, **arguments)
  rows = PartitionSpec('data')
  # A spec is a prefix: it applies to the whole subtree.
  specs = jax.tree.broadcast(
    plan.specs(rows), plan, is_leaf=lambda x: isinstance(x, PartitionSpec)
  )
  layout = jax.tree.map(lambda x, spec: (x.shape, spec), plan, specs)
  layout = jax.tree.leaves(layout, is_leaf=lambda x: isinstance(x, tuple))
  assert layout or (arguments is PADDED and method == 'auto')
  for shape, spec in layout:
    assert (spec == rows) == (shape[0] == BATCH)
  assert plan.tokens == LENGTH
  assert plan.batch == (None if arguments is PADDED else BATCH)
