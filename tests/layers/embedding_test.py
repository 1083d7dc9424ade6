import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen.partitioning import axis_rules
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fnet_t5x.layers.embedding import (
  Embed,
  LearnedPositions,
  sinusoidal_positions,
)
from fnet_t5x.runtime.partitioning import standard_logical_axis_rules

VOCAB, FEATURES = 56, 24


def test_gather_and_one_hot_agree_in_values_and_gradients():
  ids = jnp.array([[1, 4, 1], [0, 2, 4]])
  table = jax.random.normal(jax.random.key(0), (5, 3))
  cotangent = jax.random.normal(jax.random.key(1), (2, 3, 3))

  def run(one_hot):
    def lookup(table):
      embed = Embed(num_embeddings=5, features=3, one_hot=one_hot)
      return embed.apply({'params': {'embedding': table}}, ids)

    out, pullback = jax.vjp(lookup, table)
    return out, pullback(cotangent)[0]

  np.testing.assert_array_equal(run(False)[0], np.asarray(table)[ids])
  np.testing.assert_array_equal(run(False)[0], run(True)[0])
  np.testing.assert_allclose(run(False)[1], run(True)[1], rtol=1e-6)


def gradient_of_lookup(table, ids, cotangent, **options):
  embed = Embed(*table.shape, **options)
  _, pullback = jax.vjp(
    lambda table: embed.apply({'params': {'embedding': table}}, ids), table
  )
  return pullback(cotangent)[0]


def test_a_frequent_token_keeps_its_gradient_in_bfloat16():
  # A running sum of ones in bfloat16 stops growing at 256.
  gradient = gradient_of_lookup(
    jnp.zeros((3, 2)),
    jnp.ones((4, 500), jnp.int32),
    jnp.ones((4, 500, 2), jnp.bfloat16),
    dtype=jnp.bfloat16,
  )
  assert gradient.dtype == jnp.float32
  np.testing.assert_array_equal(gradient, [[0, 0], [2000, 2000], [0, 0]])


def sharded_step(shape, platforms=None, one_hot=None):
  """Compiles a table's gradient for eight devices; program and arguments."""
  mesh = jax.make_mesh(shape, ('data', 'model'), (AxisType.Auto,) * 2)
  rows = NamedSharding(mesh, PartitionSpec('data'))
  at_table = NamedSharding(mesh, PartitionSpec('model'))
  table = jax.random.normal(jax.random.key(0), (VOCAB, FEATURES))
  ids = jax.random.randint(jax.random.key(1), (16, 6), 0, VOCAB)
  cotangent = jax.random.normal(jax.random.key(2), (16, 6, FEATURES))
  arguments = table, ids, cotangent
  step = jax.jit(
    functools.partial(gradient_of_lookup, one_hot=one_hot),
    in_shardings=(at_table, rows, rows),
    out_shardings=at_table,
  )
  with jax.set_mesh(mesh), axis_rules(standard_logical_axis_rules()):
    if platforms:
      return jax.export.export(step, platforms=platforms)(*arguments)
    return step.lower(*arguments).compile(), arguments


def test_data_parallel_lookup_has_no_contraction():
  compiled, arguments = sharded_step((8, 1))
  text = compiled.as_text()
  assert ' dot(' not in text and 'all-gather' not in text
  contracted, _ = sharded_step((8, 1), one_hot=True)
  assert ' dot(' in contracted.as_text()
  name = 'bytes accessed'
  assert compiled.cost_analysis()[name] < contracted.cost_analysis()[name]
  want = gradient_of_lookup(*arguments, one_hot=True)
  np.testing.assert_allclose(compiled(*arguments), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_data_parallel_lookup_for_accelerators(platform):
  exported = sharded_step((8, 1), [platform])
  text = exported.mlir_module()
  assert 'stablehlo.scatter' in text and 'dot_general' not in text
  split = sharded_step((2, 4), [platform]).mlir_module()
  assert 'dot_general' in split and 'stablehlo.scatter' not in split


@pytest.mark.parametrize('shape', [(2, 4), (1, 8)])
def test_a_table_sharded_by_vocabulary_is_not_gathered(shape):
  compiled, arguments = sharded_step(shape)
  text = compiled.as_text()
  assert ' dot(' in text and 'all-gather' not in text
  whole = rf'f32\[{VOCAB},{FEATURES}\]'
  assert not re.search(whole, text)
  want = gradient_of_lookup(*arguments, one_hot=False)
  np.testing.assert_allclose(compiled(*arguments), want, rtol=1e-5, atol=1e-6)


def test_attend_is_the_transposed_table():
  table = jax.random.normal(jax.random.key(0), (5, 3))
  query = jax.random.normal(jax.random.key(1), (2, 3)).astype(jnp.bfloat16)
  embed = Embed(5, 3, dtype=jnp.bfloat16, attend_dtype=jnp.float32)
  logits = embed.apply(
    {'params': {'embedding': table}}, query, method=embed.attend
  )
  assert logits.dtype == jnp.float32
  want = np.asarray(query, np.float64) @ np.asarray(table, np.float64).T
  np.testing.assert_allclose(logits, want, rtol=1e-5, atol=1e-6)


def test_ids_must_be_integers():
  with pytest.raises(ValueError, match='must be integers, not float32'):
    Embed(5, 3).init(jax.random.key(0), jnp.ones((1, 2)))


def test_learned_positions_are_looked_up_to_a_limit():
  module = LearnedPositions(max_length=4, features=3)
  positions = jnp.array([[0, 1, 0, 3]])
  out, variables = module.init_with_output(jax.random.key(0), positions)
  table = np.asarray(variables['params']['embedding'])
  np.testing.assert_array_equal(out, table[np.asarray(positions)])
  with pytest.raises(ValueError, match=r'5 tokens.*max_encoder_length=4'):
    module.apply(variables, jnp.zeros((1, 5), jnp.int32))


@pytest.mark.parametrize('features', [6, 7])
def test_sinusoidal_positions(features):
  positions = np.array([[0, 1, 500], [7, 2, 0]])
  half = -(-features // 2)
  want = np.zeros((2, 3, features))
  for column in range(features):
    wave = np.sin if column < half else np.cos
    frequency = 10000.0 ** -((column % half) / half)
    want[..., column] = wave(positions * frequency)
  got = sinusoidal_positions(jnp.asarray(positions), features)
  np.testing.assert_allclose(got, want, atol=1e-4)
