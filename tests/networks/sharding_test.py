"""Collectives of the compiled encoder."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen.partitioning import axis_rules
from jax.sharding import Mesh, NamedSharding, PartitionSpec

BATCH, TOKENS = 16, 8
RULES = (
  ('batch', 'data'),
  ('vocab', 'model'),
  ('mlp', 'model'),
  ('heads', 'model'),
  ('joined_kv', 'model'),
  ('kv', None),
  ('embed', None),
  ('length', None),
)


def compile_encoder(module, params, tokens, shape, *segments):
  """Compiles in a mesh context like T5X's, the batch sharded over 'data'."""
  mesh = Mesh(np.array(jax.devices()[:8]).reshape(shape), ('data', 'model'))
  whole = NamedSharding(mesh, PartitionSpec())
  rows = NamedSharding(mesh, PartitionSpec('data'))

  def encode(params, tokens, *segments):
    return module.apply(
      {'params': params},
      tokens,
      *segments,
      enable_dropout=False,
      method=module.encode,
    )

  with mesh, axis_rules(RULES):
    jitted = jax.jit(
      encode,
      in_shardings=(whole, rows, *[rows] * len(segments)),
      out_shardings=rows,
    )
    return jitted.lower(params, tokens, *segments).compile()


# T5X enters its mesh this way.
@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:.with mesh:DeprecationWarning')
@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('name', ['hybrid', 'linear', 'gated'])
def test_data_parallel_encoders_gather_nothing(
  build, random_tokens, name, packed
):
  # XLA would gather for an FFT.
  module, params = build(name, toeplitz_method='fft')
  tokens = random_tokens(BATCH, TOKENS).at[::2, 5:].set(0)
  segments = (jnp.where(tokens > 0, 1, 0),) if packed else ()
  compiled = compile_encoder(module, params, tokens, (8, 1), *segments)
  text = compiled.as_text()
  # Each device has its own rows: the whole batch appears nowhere.
  assert re.search(rf'f32\[{BATCH // 8},{TOKENS},', text)
  assert 'all-gather' not in text
  assert 'all-to-all' not in text
  np.testing.assert_allclose(
    compiled(params, tokens, *segments),
    module.apply(
      {'params': params},
      tokens,
      *segments,
      enable_dropout=False,
      method=module.encode,
    ),
    rtol=1e-4,
    atol=1e-4,
  )


def test_the_check_above_sees_a_gather():
  mesh = Mesh(np.array(jax.devices()[:8]).reshape(8, 1), ('data', 'model'))
  rows = NamedSharding(mesh, PartitionSpec('data'))
  text = (
    jax.jit(jnp.fft.fft, in_shardings=rows, out_shardings=rows)
    .lower(jnp.zeros((BATCH, TOKENS), jnp.complex64))
    .compile()
    .as_text()
  )
  assert 'all-gather' in text
