import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.layers.embedding import (
  Embed,
  LearnedPositions,
  sinusoidal_positions,
)


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


def test_learned_positions_look_up_and_have_a_limit():
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
