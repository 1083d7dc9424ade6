import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnet_t5x.networks import fnet_t5, t5

MIXINGS = ['fourier', 'hybrid', 'linear', 'none']


@pytest.mark.parametrize(
  ('layout', 'want'),
  [
    ('bottom', 'AAffff'),
    ('middle', 'ffAAff'),
    ('mixed', 'AffAff'),
    ('top', 'ffffAA'),
  ],
)
def test_layouts(layout, want):
  got = fnet_t5.mixing_layout(6, layout=layout)
  letters = {'attention': 'A', 'fourier': 'f'}
  assert ''.join(letters[name] for name in got) == want


@pytest.mark.parametrize('layout', ['bottom', 'middle', 'mixed', 'top'])
@pytest.mark.parametrize('layers', [1, 2, 5, 12])
def test_layouts_have_the_requested_attention_layers(layers, layout):
  for attending in range(layers + 1):
    if layout == 'mixed' and attending and layers % attending:
      continue
    got = fnet_t5.mixing_layout(layers, 'none', attending, layout)
    assert len(got) == layers
    assert got.count('attention') == attending
    assert got.count('none') == layers - attending


@pytest.mark.parametrize(
  ('layout', 'attending', 'want'),
  [
    ('mixed', 2, 'AfAfA'),  # 5 // 2 == 2
    ('mixed', 3, 'AAAAA'),
    ('mixed', 0, 'fffff'),
    ('middle', 2, 'ffAAf'),  # 3 <= 2 * layer < 7
  ],
)
def test_published_layouts_where_layers_do_not_divide(layout, attending, want):
  got = fnet_t5.mixing_layout(5, 'fourier', attending, layout)
  letters = {'attention': 'A', 'fourier': 'f'}
  assert ''.join(letters[name] for name in got) == want


@pytest.mark.parametrize(
  ('choices', 'message'),
  [
    ({'encoder_mixing': ('fourrier', 'none')}, "encoder_mixing='fourrier'"),
    ({'encoder_mixing': ('fourier',)}, 'names 1 layers.*layers is 2'),
    ({'encoder_mixing': 'none'}, "set NON_ATTENTION_MIXING='none'"),
    ({'encoder_position_embedding': 'rotary'}, "embedding='rotary'"),
    ({'fourier_scale': 'unit'}, "fourier_scale='unit'"),
    ({'fourier_lengths': 'short'}, "fourier_lengths='short'"),
    ({'fourier_method': 'dct'}, "fourier_method='dct'"),
    ({'toeplitz_method': 'dct'}, "toeplitz_method='dct'"),
    ({'toeplitz_filter': 'fixed'}, "toeplitz_filter='fixed'"),
    ({'gated_convolution_width': 4}, 'CONVOLUTION_WIDTH is 4.*odd'),
    ({'gated_convolution_width': 0}, 'CONVOLUTION_WIDTH is 0'),
    (
      {'encoder_mixing': ('toeplitz', 'none'), 'num_heads': 7},
      "'toeplitz' has one filter per head: emb_dim=512.*num_heads=7",
    ),
  ],
)
def test_unknown_choices_are_a_one_line_error(choices, message):
  with pytest.raises(ValueError, match=message) as error:
    fnet_t5.FNetT5Config(vocab_size=9, num_encoder_layers=2, **choices)
  assert '\n' not in str(error.value)


def test_invalid_layouts_are_rejected():
  with pytest.raises(ValueError, match="layout='up' is not known"):
    fnet_t5.mixing_layout(4, layout='up')
  with pytest.raises(ValueError, match="mixing='mlp' is not known"):
    fnet_t5.mixing_layout(4, mixing='mlp')
  # FNet's, of which the hybrid's encoder has no layer.
  layers = fnet_t5.mixing_layout(4, mixing='random')
  with pytest.raises(ValueError, match="encoder_mixing='random' is not known"):
    fnet_t5.FNetT5Config(
      vocab_size=9, num_encoder_layers=4, encoder_mixing=layers
    )
  with pytest.raises(ValueError, match='num_attention_layers=5 does not fit'):
    fnet_t5.mixing_layout(4, num_attention_layers=5)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'choices'),
  [('fourier', {}), ('linear', {'encoder_position_embedding': 'none'})],
)
def test_inputs_longer_than_the_limit(build, name, choices):
  module, params = build(name, **choices)
  tokens = jnp.ones((1, 17), jnp.int32)
  with pytest.raises(ValueError, match=r'17 tokens.*max_encoder_length=16'):
    module.apply(
      {'params': params}, tokens, enable_dropout=False, method=module.encode
    )


@pytest.mark.slow
def test_sinusoidal_positions_have_no_limit(build):
  choices = {'encoder_position_embedding': 'sinusoidal'}
  module, params = build('fourier', **choices)
  out = module.apply(
    {'params': params},
    jnp.ones((1, 99), jnp.int32),
    enable_dropout=False,
    method=module.encode,
  )
  assert np.isfinite(out).all()


def test_default_is_the_hybrid():
  config = fnet_t5.FNetT5Config(vocab_size=9, num_encoder_layers=4)
  assert config.layer_mixing == ('fourier',) * 2 + ('attention',) * 2
  assert config.encoder_position_embedding == 'learned'
  assert config.fourier_scale == 'ortho'
  assert config.fourier_lengths == 'exact'


@pytest.mark.slow
def test_attention_everywhere_is_t5(build, random_tokens):
  choices = {'encoder_position_embedding': 'none'}
  module, params = build('attention', **choices)
  baseline, baseline_params = build('t5')
  jax.tree.map(np.testing.assert_array_equal, params, baseline_params)
  tokens = random_tokens(2, 8), random_tokens(2, 6), random_tokens(2, 6)

  def logits(network):
    apply = functools.partial(network.apply, enable_dropout=False)
    return jax.jit(apply)({'params': params}, *tokens)

  np.testing.assert_array_equal(logits(module), logits(baseline))


def test_hybrids_have_t5_s_decoder_and_attention_layers(build):
  shapes = jax.tree.map(jnp.shape, build('hybrid')[1])
  baseline = jax.tree.map(jnp.shape, build('t5')[1])
  assert shapes['decoder'] == baseline['decoder']
  assert shapes['encoder']['layers_1'] == baseline['encoder']['layers_1']
  assert set(shapes['encoder']['layers_0']) == {
    'pre_mixing_layer_norm',
    'pre_mlp_layer_norm',
    'mlp',
  }
  assert 'relpos_bias' not in build('fourier')[1]['encoder']


def test_every_parameter_has_axes():
  config = fnet_t5.FNetT5Config(
    vocab_size=9,
    num_encoder_layers=len(get_args(fnet_t5.Mixing)),
    encoder_mixing=get_args(fnet_t5.Mixing),
  )
  ones = jnp.ones((1, 4))
  variables = jax.eval_shape(
    fnet_t5.Transformer(config).init, jax.random.key(0), ones, ones, ones
  )
  axes = jax.tree.map(
    lambda leaf: len(leaf.names),
    variables['params_axes'],
    is_leaf=lambda leaf: hasattr(leaf, 'names'),
  )
  ranks = jax.tree.map(lambda leaf: leaf.ndim, variables['params'])
  assert jax.tree.leaves(axes) == jax.tree.leaves(ranks)


@pytest.mark.slow
@pytest.mark.parametrize('name', MIXINGS)
def test_every_mixing_learns(build, random_tokens, name):
  module, params = build(name)
  inputs, targets = random_tokens(4, 8), random_tokens(4, 6)
  shifted = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
  optimizer = optax.adam(3e-3)

  def loss(params):
    logits = module.apply(
      {'params': params}, inputs, shifted, targets, enable_dropout=False
    )
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, targets
    ).mean()

  @jax.jit
  def step(params, state):
    value, grads = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(params, updates), state, value, grads

  state, values = optimizer.init(params), []
  for _ in range(8):
    params, state, value, grads = step(params, state)
    values.append(float(value))
  idle = {
    jax.tree_util.keystr(path)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads)
    if not np.any(grad)
  }
  assert idle == set()
  assert values[-1] < 0.8 * values[0]


def test_configs_accept_gin_s_lists():
  config = fnet_t5.FNetT5Config(
    vocab_size=9, num_encoder_layers=2, encoder_mixing=['fourier', 'none']
  )
  assert config.layer_mixing == ('fourier', 'none')
  assert isinstance(config, t5.T5Config)
