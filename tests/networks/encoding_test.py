"""Invariance of encodings to padding, packing and other rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

MIXINGS = ['t5', 'fourier', 'hybrid', 'linear', 'none']


def encoder(module, params):
  def encode(tokens, **kwargs):
    return module.apply(
      {'params': params},
      jnp.asarray(tokens),
      enable_dropout=False,
      method=module.encode,
      **kwargs,
    )

  return jax.jit(encode)


def assert_close(got, want, tolerance=2e-5):
  got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
  assert np.std(want) > 0.1
  np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'choices'),
  [(name, {}) for name in MIXINGS]
  + [('fourier', {'fourier_method': 'matmul', 'fourier_scale': 'none'})],
)
def test_invariant_to_padding(build, random_tokens, name, choices):
  encode = encoder(*build(name, **choices))
  tokens = random_tokens(2, 7)
  want = encode(tokens)
  for padding in (1, 4, 9):
    padded = jnp.pad(tokens, ((0, 0), (0, padding)))
    assert_close(encode(padded)[:, :7], want)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['hybrid', 'linear'])
def test_nearly_invariant_to_padding_in_bfloat16(build, random_tokens, name):
  encode = encoder(*build(name, dtype=jnp.bfloat16))
  tokens = random_tokens(2, 7)
  want = encode(tokens)
  assert want.dtype == jnp.bfloat16
  assert_close(encode(jnp.pad(tokens, ((0, 0), (0, 5))))[:, :7], want, 6e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'choices'),
  [(name, {}) for name in MIXINGS]
  + [('fourier', {'encoder_position_embedding': 'sinusoidal'})],
)
def test_invariant_to_packing(build, random_tokens, name, choices):
  encode = encoder(*build(name, **choices))
  one, other = random_tokens(1, 5), random_tokens(1, 4, seed=1)
  packed = jnp.concatenate([one, other, jnp.zeros_like(one[:, :2])], axis=1)
  segments = jnp.array([[1] * 5 + [2] * 4 + [0] * 2])
  for given in (None, jnp.array([[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 0]])):
    got = encode(packed, encoder_segment_ids=segments, encoder_positions=given)
    assert_close(got[:, :5], encode(one))
    assert_close(got[:, 5:9], encode(other))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['hybrid', 'linear'])
def test_invariant_to_other_rows(build, random_tokens, name):
  encode = encoder(*build(name))
  tokens = random_tokens(3, 7).at[1, 4:].set(0)
  others = random_tokens(3, 7, seed=1).at[1].set(tokens[1])
  assert_close(encode(tokens)[1, :4], encode(others)[1, :4])
  assert_close(encode(tokens)[1, :4], encode(tokens[1:2, :4])[0])


@pytest.mark.slow
def test_padded_transform_depends_on_padding(build, random_tokens):
  encode = encoder(*build('fourier', fourier_lengths='padded'))
  tokens = random_tokens(2, 7)
  padded = encode(jnp.pad(tokens, ((0, 0), (0, 4))))[:, :7]
  assert np.abs(padded - encode(tokens)).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize('positions', ['learned', 'sinusoidal'])
def test_position_embeddings_distinguish_orders(
  build, random_tokens, positions
):
  tokens = random_tokens(1, 6)
  swapped = tokens[:, jnp.array([1, 0, 2, 3, 4, 5])]

  def change(choice):
    encode = encoder(*build('none', encoder_position_embedding=choice))
    back = encode(swapped)[:, jnp.array([1, 0, 2, 3, 4, 5])]
    return float(np.abs(encode(tokens) - back)[:, :2].max())

  assert change('none') < 1e-5
  assert change(positions) > 0.1
