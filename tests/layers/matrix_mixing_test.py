import jax
import jax.numpy as jnp
import numpy as np

from fnet_t5x.layers.matrix_mixing import (
  LinearTransform,
  RandomTransform,
  mix_by_matrices,
)

RANDOM = np.random.default_rng(0)


def test_whole_rows_against_float64():
  x = RANDOM.normal(size=(2, 5, 4))
  hidden, seq = RANDOM.normal(size=(4, 4)), RANDOM.normal(size=(7, 7))
  got = mix_by_matrices(
    *(jnp.asarray(a, jnp.float32) for a in (x, hidden, seq))
  )
  want = np.einsum('nm,bmd,de->bne', seq[:5, :5], x, hidden)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_segments_mix_by_their_own_positions():
  x = RANDOM.normal(size=(1, 5, 4)).astype(np.float32)
  hidden, seq = (RANDOM.normal(size=(n, n)).astype(np.float32) for n in (4, 7))
  segments = jnp.array([[1, 1, 2, 2, 2]])
  positions = jnp.array([[0, 1, 0, 1, 2]])
  got = mix_by_matrices(jnp.asarray(x), hidden, seq, segments, positions)
  for part in (slice(0, 2), slice(2, 5)):
    n = part.stop - part.start
    want = seq[:n, :n].astype(np.float64) @ x[0, part] @ hidden
    np.testing.assert_allclose(got[0, part], want, rtol=1e-5, atol=1e-5)


def test_learned_matrices_have_the_published_names():
  x = jnp.ones((1, 3, 4))
  params = LinearTransform(max_length=6).init(jax.random.key(0), x)['params']
  shapes = jax.tree.map(jnp.shape, params)
  assert shapes == {'hidden_kernel': (4, 4), 'seq_kernel': (6, 6)}


def test_random_matrices_depend_on_seed_and_layer_alone():
  first, again = RandomTransform(6, 1), RandomTransform(6, 1)
  with jax.threefry_partitionable(True):
    one = first.matrices(4)
  with jax.threefry_partitionable(False):
    two = jax.jit(lambda: again.matrices(4))()
  for a, b in zip(one, two, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)
  for other in (RandomTransform(6, 0), RandomTransform(6, 1, seed=1)):
    assert np.abs(other.matrices(4)[0] - one[0]).max() > 0.1
  assert not RandomTransform(6, 0).init(jax.random.key(0), jnp.ones((1, 3, 4)))


def test_random_matrices_are_drawn_as_published():
  """From a split of the seed per layer, and of that per matrix."""
  with jax.threefry_partitionable(False):
    key = jax.random.PRNGKey(0)
    key, _ = jax.random.split(key)
    _, layer_1 = jax.random.split(key)
    hidden_key, seq_key = jax.random.split(layer_1)
    init = jax.nn.initializers.lecun_normal()
    want = init(hidden_key, (4, 4)), init(seq_key, (6, 6))
  for a, b in zip(RandomTransform(6, 1).matrices(4), want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)
