"""Layouts by name, their controls, their matched widths."""

import argparse
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.benchmarks import mixer_layouts
from fnet_t5x.benchmarks.accelerator import networks
from fnet_t5x.benchmarks.mixer_layouts import Layout
from fnet_t5x.networks import fnet_t5

VOCAB = 40


def options(**changes):
  return argparse.Namespace(
    **{
      'objective': 'masked_lm',
      'layers': 3,
      'embed': 32,
      'heads': 4,
      'mlp': 64,
      'decoder_layers': 1,
      'positions': 'learned',
      'length': 16,
      'dtype': 'float32',
      'match': 'parameters',
    }
    | changes
  )


def test_a_name_is_a_mixing_and_attention_layers():
  assert mixer_layouts.layout_of('fourier', 4) == Layout('fourier')
  assert mixer_layouts.layout_of('none+2', 4) == Layout('none', 2)
  assert mixer_layouts.layout_of('attention+2', 4) == Layout('attention')
  for name in typing.get_args(fnet_t5.Mixing):
    for text in (name, f'{name}+1' if name != 'attention' else name):
      assert mixer_layouts.layout_of(text, 2).name == text


@pytest.mark.parametrize('name', ['convo', 'fourier+0', 'fourier+4', 'none+x'])
def test_an_unknown_name_is_an_error(name):
  with pytest.raises(ValueError, match=name.replace('+', r'\+')):
    mixer_layouts.layout_of(name, 4)


def test_controls_are_always_there():
  found = mixer_layouts.with_controls(
    [Layout('fourier'), Layout('fourier', 2), Layout('linear', 2)]
  )
  names = [layout.name for layout in found]
  assert names == [
    *('none', 'attention', 'fourier'),
    *('none+2', 'fourier+2', 'linear+2'),
  ]


def test_the_control_of_a_gated_block_is_the_block():
  gated = Layout('fourier_gated', 1)
  assert mixer_layouts.control_of(gated) == Layout('convolution', 1)
  assert mixer_layouts.control_of(Layout('fourier', 1)) == Layout('none', 1)
  found = mixer_layouts.with_controls([gated])
  assert [layout.name for layout in found] == [
    *('none', 'attention'),
    *('none+1', 'convolution+1', 'fourier_gated+1'),
  ]


def test_widths_give_equal_parameters():
  # A layer has 4 E^2 of attention, 3 E M of its feed-forward block; a Fourier
  # layer has the second alone. Biases of attention: 32 buckets x 4 heads.
  # Norms: of each sublayer; and one at the end.
  embed, mlp = 32, 64
  table, norms = VOCAB * embed, (2 * 3 + 1) * embed
  attention = table + norms + 3 * (4 * embed**2 + 3 * embed * mlp) + 32 * 4
  made = mixer_layouts.make(Layout('attention'), options(), VOCAB, mlp)
  assert networks.count_parameters(made) == attention
  width = mixer_layouts.mlp_dim_of(Layout('fourier'), options(), VOCAB)
  # (3 * 4 * 32^2 + 128) / (3 * 3 * 32) = 43.1 wider: 104 is nearest.
  assert width == 104
  made = mixer_layouts.make(Layout('fourier'), options(), VOCAB, width)
  found = networks.count_parameters(made)
  assert found == table + norms + 3 * 3 * embed * width
  assert abs(found - attention) <= 3 * 3 * embed * mixer_layouts.MLP_STEP / 2
  # No mixing has no norm before it; attention's width is as given.
  none = mixer_layouts.make(Layout('none'), options(), VOCAB, width)
  assert networks.count_parameters(none) == found - 3 * embed
  assert mixer_layouts.mlp_dim_of(Layout('attention'), options(), VOCAB) == mlp
  given = options(match='none')
  assert mixer_layouts.mlp_dim_of(Layout('fourier'), given, VOCAB) == mlp


def test_the_decoder_keeps_its_width():
  given = options(objective='span_corruption')
  made = mixer_layouts.make(Layout('fourier'), given, VOCAB, 104)
  tokens = networks.example_tokens(made)
  shapes = jax.eval_shape(
    lambda: made.init(jax.random.key(0), *tokens, enable_dropout=False)
  )['params']
  widths = {
    side: shapes[side]['layers_0']['mlp']['wo']['kernel'].shape[0]
    for side in ('encoder', 'decoder')
  }
  assert widths == {'encoder': 104, 'decoder': 64}


def test_the_encoder_alone_has_its_embedding_as_output_layer():
  made = mixer_layouts.make(Layout('none'), options(layers=1), VOCAB, 64)
  random = np.random.default_rng(0)
  tokens = jnp.asarray(random.integers(1, VOCAB, (2, 12)))
  positions = np.array([[3, 1], [11, 0]])

  @jax.jit
  def run(key):
    variables = made.init(key, tokens, positions, enable_dropout=False)
    params = {'params': variables['params']}
    logits = made.apply(params, tokens, positions, enable_dropout=False)
    hidden = made.apply(params, tokens, enable_dropout=False, method='encode')
    return params['params'], logits, hidden

  params, logits, hidden = run(jax.random.key(0, impl='rbg'))
  assert set(params) == {'encoder', 'token_embedder'}
  table = np.asarray(params['token_embedder']['embedding'])
  chosen = np.asarray(hidden)[np.arange(2)[:, None], positions]
  expected = chosen @ table.T / np.sqrt(32)
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
