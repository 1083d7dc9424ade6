"""Mixing on meshes of eight devices: same results, without gathers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnet_t5x.fourier import reference
from fnet_t5x.fourier.mixing import make_mixing_plan, mix

BATCH, LENGTH, EMBED = 16, 12, 10
ROW_LENGTHS = np.arange(BATCH) % LENGTH + 1
MASK = np.arange(LENGTH)[None, :] < ROW_LENGTHS[:, None]
MODES = {
  'padded': lambda m: make_mixing_plan(m, lengths='padded'),
  'bluestein': lambda m: make_mixing_plan(m, length_method='fft'),
  'matrices': lambda m: make_mixing_plan(m, length_method='matmul'),
  'packed': lambda m: make_mixing_plan(
    m.astype(jnp.int32),
    jnp.broadcast_to(jnp.arange(LENGTH)[None, :], m.shape),
  ),
}
COLLECTIVES = re.compile(r'all-gather|all-to-all|collective-permute|all-reduce')


def make_mesh(shape):
  return Mesh(np.array(jax.devices()).reshape(shape), ('data', 'model'))


def expected_mix(x, mode):
  x = np.asarray(x, np.float64)
  if mode == 'padded':
    return reference.mix_padded(x)
  return reference.mix_exact(x, ROW_LENGTHS)


def normal(*shape, seed=0):
  x = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(x, jnp.float32)


def layers(x, mask, mode):
  """Two mixing sublayers that share a plan, as in an encoder."""
  plan = MODES[mode](mask)
  for _ in range(2):
    x = x + mix(x, plan)
  return x


def expected_layers(x, mode):
  for _ in range(2):
    x = x + expected_mix(x, mode)
  return x


def forward_and_backward(x, mask, cotangent, mode):
  y, pullback = jax.vjp(lambda x: layers(x, mask, mode), x)
  return y, pullback(cotangent)[0]


def compile_sharded(mesh, mode, x, cotangent):
  rows = NamedSharding(mesh, PartitionSpec('data'))
  step = jax.jit(
    lambda x, mask, ct: forward_and_backward(x, mask, ct, mode),
    in_shardings=(rows, rows, rows),
    out_shardings=(rows, rows),
  )
  return step.lower(x, MASK, cotangent).compile()


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:.*with mesh.*:DeprecationWarning')
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('shape', [(8, 1), (4, 2), (1, 8)])
def test_meshes_agree_and_keep_rows_local(shape, mode):
  x = normal(BATCH, LENGTH, EMBED)
  cotangent = normal(BATCH, LENGTH, EMBED, seed=1)
  mesh = make_mesh(shape)
  with mesh:
    step = compile_sharded(mesh, mode, x, cotangent)
    y, grad = step(x, MASK, cotangent)
  for actual, source in ((y, x), (grad, cotangent)):
    expected = expected_layers(source, mode)
    error = np.abs(np.asarray(actual, np.float64) - expected).max()
    assert error / np.abs(expected).max() < 1e-5
  # Rows are independent: devices need not communicate.
  assert not COLLECTIVES.findall(step.as_text())


def test_without_the_mesh_context_xla_gathers():
  # The reason for `shard_map_batch`. If this fails, XLA partitions FFTs, and
  # `shard_map_batch` can be removed.
  x, ct = normal(BATCH, LENGTH, EMBED), normal(BATCH, LENGTH, EMBED, seed=1)
  step = compile_sharded(make_mesh((8, 1)), 'padded', x, ct)
  assert 'all-gather' in step.as_text()


def test_set_mesh_is_a_context_too():
  x, ct = normal(BATCH, LENGTH, EMBED), normal(BATCH, LENGTH, EMBED, seed=1)
  mesh = make_mesh((8, 1))
  automatic = jax.sharding.AxisType.Auto
  mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=(automatic,) * 2)
  with jax.set_mesh(mesh):
    step = compile_sharded(mesh, 'bluestein', x, ct)
  assert not COLLECTIVES.findall(step.as_text())


@pytest.mark.filterwarnings('ignore:.*with mesh.*:DeprecationWarning')
def test_inside_the_callers_own_shard_map():
  x, mesh = normal(BATCH, LENGTH, EMBED), make_mesh((8, 1))
  rows = PartitionSpec('data')
  with mesh:
    y = jax.jit(
      jax.shard_map(
        lambda x, mask: mix(x, make_mixing_plan(mask)),
        mesh=mesh,
        in_specs=(rows, rows),
        out_specs=rows,
        check_vma=False,
      )
    )(x, MASK)
  expected = expected_mix(x, 'bluestein')
  error = np.abs(np.asarray(y, np.float64) - expected).max()
  assert error / np.abs(expected).max() < 1e-5


@pytest.mark.filterwarnings('ignore:.*with mesh.*:DeprecationWarning')
def test_a_batch_that_the_mesh_does_not_divide():
  # Model initialisation runs one row under an eight-way mesh.
  x = normal(1, LENGTH, EMBED)
  with make_mesh((8, 1)):
    y = jax.jit(lambda x: mix(x, make_mixing_plan(np.ones((1, LENGTH)))))(x)
  expected = reference.mix_padded(np.asarray(x, np.float64))
  error = np.abs(np.asarray(y, np.float64) - expected).max()
  assert error / np.abs(expected).max() < 1e-5
