"""Mixing of rows that are sharded over devices: results and communication."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnet_t5x.fourier import reference
from fnet_t5x.fourier.mixing import make_mixing_plan, mix
from fnet_t5x.planning.collectives import collectives

BATCH, LENGTH = 4, 12
ROW_LENGTHS = np.array([12, 5, 1, 8])
MASK = np.arange(LENGTH)[None, :] < ROW_LENGTHS[:, None]
MODES = {
  'padded fft': {'lengths': 'padded', 'method': 'fft'},
  'padded matrices': {'lengths': 'padded', 'method': 'matmul'},
  'bluestein': {'length_method': 'fft'},
  'matrices': {'length_method': 'matmul'},
  'packed': {},
}
# Number of devices, of 8, that a row is sharded over.
SHARDS = 4


def make_plan(mode, mask):
  positions = None
  if mode == 'packed':
    positions = jnp.broadcast_to(jnp.arange(LENGTH)[None, :], mask.shape)
  return make_mixing_plan(mask.astype(jnp.int32), positions, **MODES[mode])


def forward_and_backward(x, mask, cotangent, mode, axes):
  plan = make_plan(mode, mask)
  y, pullback = jax.vjp(lambda x: mix(x, plan, **axes), x)
  return y, pullback(cotangent)[0]


def normal(embed, seed):
  x = np.random.default_rng(seed).normal(size=(BATCH, LENGTH, embed))
  return jnp.asarray(x, jnp.float32)


def compile_sharded(mode, x, cotangent, sharded):
  mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ('data', 'model'))
  pieces = ['data', None, None]
  pieces[{'length_axis': 1, 'embed_axis': 2}[sharded]] = 'model'
  pieces = NamedSharding(mesh, PartitionSpec(*pieces))
  rows = NamedSharding(mesh, PartitionSpec('data'))
  step = jax.jit(
    functools.partial(forward_and_backward, mode=mode, axes={sharded: 'model'}),
    in_shardings=(pieces, rows, pieces),
    out_shardings=(pieces, pieces),
  )
  with mesh:
    return step.lower(x, jnp.asarray(MASK), cotangent).compile()


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:.*with mesh.*:DeprecationWarning')
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize(
  ('sharded', 'embed'),
  [('length_axis', 10), ('length_axis', 7), ('embed_axis', 8)],
)
def test_spread_rows_are_mixed_alike(sharded, embed, mode):
  x, cotangent = normal(embed, 0), normal(embed, 1)
  step = compile_sharded(mode, x, cotangent, sharded)
  for actual, source in zip(
    step(x, jnp.asarray(MASK), cotangent), (x, cotangent), strict=True
  ):
    source = np.asarray(source, np.float64)
    if 'padded' in mode:
      expected = reference.mix_padded(source)
    else:
      expected = reference.mix_exact(source, ROW_LENGTHS)
    error = np.abs(np.asarray(actual, np.float64) - expected).max()
    assert error / np.abs(expected).max() < 1e-5

  # Forward and backward: no gather, and the documented number of bytes.
  (found,) = collectives(step.as_text())
  assert found['kind'] == 'all-to-all'
  local = 4 * BATCH // 2 * LENGTH * embed // SHARDS
  if sharded == 'embed_axis':
    assert (found['count'], found['bytes']) == (4, 2 * 3 * local)
  else:
    half = -(-(embed // 2 + 1) // SHARDS) * SHARDS  # divides over the devices
    pair = 4 * BATCH // 2 * LENGTH // SHARDS * 2 * half
    assert (found['count'], found['bytes']) == (4, 2 * 2 * pair)


@pytest.mark.filterwarnings('ignore:.*with mesh.*:DeprecationWarning')
def test_lengths_that_the_devices_do_not_divide():
  mesh = Mesh(np.array(jax.devices()[:8]).reshape(1, 8), ('data', 'model'))
  x = normal(10, 0)
  with mesh:
    y = jax.jit(
      lambda x: mix(x, make_plan('matrices', jnp.asarray(MASK)), 'model')
    )(x)
  expected = reference.mix_exact(np.asarray(x, np.float64), ROW_LENGTHS)
  assert np.abs(np.asarray(y) - expected).max() < 1e-5 * np.abs(expected).max()
