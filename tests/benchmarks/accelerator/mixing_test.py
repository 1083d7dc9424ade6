"""Ways of mixing that are compared: that they compute what they are called."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.benchmarks.accelerator import mixing
from fnet_t5x.benchmarks.accelerator.bench import Setting
from fnet_t5x.fourier import reference

SETTING = Setting('cpu', 'float32', toy=True)
SHAPE = (2, 12, 16)


def activations():
  return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def outcome(name):
  function, arguments = mixing.make_cases(SHAPE, SETTING)[name].prepare()
  return jax.jit(function)(jnp.asarray(activations()), *arguments)


@pytest.mark.parametrize(
  'name',
  [mixing.FNET, 'padded, FFT', 'padded, matrices', 'exact, full rows, auto'],
)
def test_ways_over_whole_rows_are_the_definition(name):
  want = reference.mix_padded(activations())
  np.testing.assert_allclose(outcome(name), want, atol=2e-6)


@pytest.mark.parametrize('name', mixing.plan_ways(SHAPE, SETTING))
def test_ways_over_ragged_rows_are_the_definition(name):
  lengths = np.asarray(mixing.row_mask(SHAPE)).sum(axis=1)
  assert lengths.tolist() == [7, 10]
  want = reference.mix_exact(activations(), lengths)
  np.testing.assert_allclose(outcome(name), want, atol=2e-6)


def test_attention_by_the_library_is_ours():
  cases = mixing.attention_cases(SHAPE, SETTING)
  plain, (params, bias) = cases['attention, plain'].prepare()
  x = jnp.asarray(activations())
  bias = bias + jnp.asarray(
    np.random.default_rng(1).standard_normal(bias.shape), jnp.float32
  )

  @jax.jit
  def both(x, bias):
    library = functools.partial(
      mixing.library_attention, x, params, implementation='xla'
    )
    zero = jnp.zeros_like(bias)
    return (
      (library(), plain(x, params, zero)),
      (library(bias), plain(x, params, bias)),
    )

  for got, want in both(x, bias):
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_chain_of_forward_and_backward_passes_stays_finite():
  case = mixing.make_cases(SHAPE, SETTING)['attention, plain']
  result = mixing.time_case(SETTING, SHAPE, 'forward+backward', case)
  assert result['finite']
  assert result['run_seconds'] > 0 and result['compile_seconds'] > 0
