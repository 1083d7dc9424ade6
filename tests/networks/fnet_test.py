import functools
import json
import pathlib

import fnet_reference
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden import fnet as golden

from fnet_t5x.layers.matrix_mixing import RandomTransform
from fnet_t5x.networks import fnet, fnet_t5
from fnet_t5x.runtime.partitioning import standard_logical_axis_rules

GOLDEN = json.loads(
  (pathlib.Path(__file__).parents[1] / 'golden/fnet.json').read_text()
)
MIXINGS = ('fourier', 'attention', 'linear', 'random', 'none')
SIZES = {
  'vocab_size': 17,
  'emb_dim': 8,
  'embedding_dim': 6,
  'mlp_dim': 12,
  'num_layers': 5,
  'num_heads': 2,
  'max_length': 8,
  'layer_mixing': MIXINGS,
  'num_classes': 3,
}
# One row of tokens per example, and its types.
EXAMPLES = [
  (np.array([4, 9, 5]), np.array([0, 1, 1])),
  (np.array([4, 11, 12, 13, 5]), np.array([0, 0, 2, 2, 3])),
]

LARGE = {'emb_dim': 1024, 'mlp_dim': 4096, 'num_layers': 24, 'num_heads': 16}


def abstract_parameters(**choices):
  module = fnet.FNet(fnet.FNetConfig(**choices))
  tokens = jnp.ones((1, 4), jnp.int32)
  variables = jax.eval_shape(
    lambda: module.init(jax.random.key(0), tokens, enable_dropout=False)
  )
  return jax.tree.leaves(variables['params'])


@pytest.mark.slow
@pytest.mark.parametrize(
  ('mixing', 'choices', 'parameters', 'leaves'),
  [
    ('fourier', {}, 83_486_722, 112),
    ('fourier', LARGE, 238_031_106, 208),
    ('random', {}, 83_486_722, 112),
    ('none', {}, 83_486_722, 112),
  ],
)
def test_parameters_of_the_published_checkpoints(
  mixing, choices, parameters, leaves
):
  layers = choices.get('num_layers', 12)
  got = abstract_parameters(layer_mixing=(mixing,) * layers, **choices)
  assert sum(leaf.size for leaf in got) == parameters
  assert len(got) == leaves


@pytest.mark.slow
@pytest.mark.parametrize(
  ('mixing', 'attending', 'choices', 'millions'),
  [
    ('attention', 0, {}, 112),
    ('linear', 0, {}, 94),
    ('fourier', 2, {}, 88),
    ('attention', 0, LARGE, 339),
    ('linear', 0, LARGE, 269),
  ],
)
def test_parameters_of_the_papers_table(mixing, attending, choices, millions):
  """Millions, as the paper prints them (2105.03824)."""
  layers = choices.get('num_layers', 12)
  mixings = fnet_t5.mixing_layout(layers, mixing, attending)
  got = abstract_parameters(layer_mixing=mixings, **choices)
  assert round(sum(leaf.size for leaf in got) / 1e6) == millions


@functools.cache
def build(**choices):
  module = fnet.FNet(fnet.FNetConfig(**SIZES | choices))
  return module, fnet_reference.parameters(module)


def run(module, params, tokens, types, segments=None, positions=None):
  """Returns a dict of hidden states and of the outputs of all heads."""

  def forward(params, *inputs):
    def apply(method, *args, **options):
      return module.apply({'params': params}, *args, method=method, **options)

    hidden = apply(module.encode, *inputs, enable_dropout=False)
    pooled = apply(module.pool, hidden)
    outputs = {
      'hidden': hidden,
      'pooled': pooled,
      'mlm': apply(module.mlm_logits, hidden),
      'pair': apply(module.pair_logits, pooled),
    }
    if module.config.num_classes:
      outputs['class'] = apply(module.class_logits, pooled)
    return outputs

  outputs = jax.jit(forward)(params, tokens, types, segments, positions)
  return {name: np.asarray(value) for name, value in outputs.items()}


def reference(module, params, tokens, types):
  """The same of one row without batch axis, in float64."""
  matrices = {
    layer: RandomTransform(module.config.max_length, layer).matrices(8)
    for layer, mixing in enumerate(module.config.mixings)
    if mixing == 'random'
  }
  hidden = fnet_reference.encode(
    params, tokens, types, module.config.mixings, matrices
  )
  return fnet_reference.heads(params, hidden[None])


def assert_close(got, want):
  """Checks all outputs to 1e-5 of their largest element."""
  assert got.keys() == want.keys()
  for name, value in want.items():
    value = np.asarray(value)
    np.testing.assert_allclose(
      got[name], value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=name
    )


@pytest.mark.parametrize('name', golden.CASES)
def test_outputs_are_those_of_hugging_face(name):
  config, params, tokens, types = golden.make_case(name)
  got = golden.pick(run(fnet.FNet(config), params, tokens, types))
  assert_close(got, GOLDEN[name])


@pytest.mark.slow
def test_rows_with_padding_against_float64():
  module, params = build()
  tokens, types = np.zeros((2, 2, 7), int)
  for row, (ids, kinds) in enumerate(EXAMPLES):
    tokens[row, : len(ids)], types[row, : len(ids)] = ids, kinds
  got = run(module, params, tokens, types)
  for row in range(2):
    want = reference(module, params, tokens[row], types[row])
    assert_close({k: v[row : row + 1] for k, v in got.items()}, want)


@pytest.mark.slow
def test_exact_lengths_do_not_depend_on_padding():
  module, params = build(fourier_lengths='exact')
  tokens, types = np.zeros((2, 2, 7), int)
  for row, (ids, kinds) in enumerate(EXAMPLES):
    tokens[row, : len(ids)], types[row, : len(ids)] = ids, kinds
  got = run(module, params, tokens, types)
  for row, (ids, kinds) in enumerate(EXAMPLES):
    mine = {k: v[row : row + 1] for k, v in got.items()}
    for name in ('hidden', 'mlm'):
      mine[name] = mine[name][:, : len(ids)]
    assert_close(mine, reference(module, params, ids, kinds))


@pytest.mark.slow
@pytest.mark.parametrize('derived', [False, True])
def test_exact_lengths_do_not_depend_on_packing(derived):
  module, params = build(fourier_lengths='exact')
  tokens, types = np.zeros((2, 1, 8), int)
  segments, positions = np.zeros((2, 1, 8), int)
  start = 0
  for i, (ids, kinds) in enumerate(EXAMPLES, 1):
    end = start + len(ids)
    tokens[0, start:end], types[0, start:end] = ids, kinds
    segments[0, start:end], positions[0, start:end] = i, range(len(ids))
    start = end
  got = run(
    module, params, tokens, types, segments, None if derived else positions
  )
  start = 0
  for ids, kinds in EXAMPLES:
    end = start + len(ids)
    mine = {name: got[name][:, start:end] for name in ('hidden', 'mlm')}
    want = reference(module, params, ids, kinds)
    assert_close(mine, {name: want[name] for name in mine})
    start = end


@pytest.mark.slow
def test_padding_takes_part_by_default():
  module, params = build()
  tokens, types = EXAMPLES[0][0][None], EXAMPLES[0][1][None]
  padded = [np.pad(x, ((0, 0), (0, 2))) for x in (tokens, types)]
  short = run(module, params, tokens, types)['pooled']
  assert np.abs(run(module, params, *padded)['pooled'] - short).max() > 0.01


@pytest.mark.slow
def test_gradients_in_bfloat16_are_finite_and_reach_every_parameter():
  module, params = build(dtype=jnp.bfloat16)
  tokens = jnp.asarray(EXAMPLES[1][0][None])

  @jax.jit
  def gradients(params):
    def loss(params):
      variables = {'params': params}
      hidden = module.apply(
        variables,
        tokens,
        jnp.zeros_like(tokens),
        rngs={'dropout': jax.random.key(0)},
      )
      pooled = module.apply(variables, hidden, method=module.pool)
      logits = [
        module.apply(variables, hidden, method=module.mlm_logits),
        module.apply(variables, pooled, method=module.pair_logits),
        module.apply(variables, pooled, method=module.class_logits),
      ]
      assert hidden.dtype == jnp.bfloat16
      assert all(x.dtype == jnp.float32 for x in logits)
      return sum(
        optax.softmax_cross_entropy_with_integer_labels(
          x, jnp.ones(x.shape[:-1], jnp.int32)
        ).sum()
        for x in logits
      )

    return jax.grad(loss)(params)

  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients(params)):
    name = jax.tree_util.keystr(path)
    assert leaf.dtype == jnp.float32
    assert np.isfinite(leaf).all(), name
    # Softmax ignores what is added to all of a query's logits.
    assert "'key']['bias']" in name or np.abs(leaf).max() > 0, name


def test_logits_of_gathered_positions():
  module, params = build()
  hidden = np.random.default_rng(0).normal(size=(2, 4, 8)).astype(np.float32)
  where = np.array([[3, 0], [1, 1]])

  def logits(x):
    return module.apply({'params': params}, x, method=module.mlm_logits)

  want = np.take_along_axis(logits(hidden), where[..., None], axis=1)
  got = logits(np.take_along_axis(hidden, where[..., None], axis=1))
  np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_every_axis_of_a_parameter_has_a_rule():
  module, _ = build()
  tokens = jnp.ones((1, 4), jnp.int32)
  variables = jax.eval_shape(
    lambda: module.init(jax.random.key(0), tokens, enable_dropout=False)
  )
  known = {axis for axis, _ in standard_logical_axis_rules()}
  params = jax.tree.leaves(variables['params'])
  axes = jax.tree.leaves(
    variables['params_axes'], is_leaf=lambda x: hasattr(x, 'names')
  )
  assert len(params) == len(axes)
  for leaf, metadata in zip(params, axes, strict=True):
    assert len(metadata.names) == leaf.ndim
    assert set(metadata.names) <= known


@pytest.mark.slow
def test_initial_values():
  config = fnet.FNetConfig(
    **SIZES | {'vocab_size': 400, 'emb_dim': 64, 'max_length': 64}
  )
  tokens = jnp.ones((1, 4), jnp.int32)
  params = fnet.FNet(config).init(
    jax.random.key(0), tokens, enable_dropout=False
  )['params']
  encoder = params['encoder']
  random = [
    encoder['embedder']['word']['embedding'],
    encoder['embedder']['position']['embedding'],
    encoder['feed_forward_0']['intermediate']['kernel'],
    encoder['self_attention_1']['query']['kernel'],
    encoder['self_attention_1']['out']['kernel'],
    encoder['linear_transform_2']['seq_kernel'],
    params['predictions_output']['output_bias'],
  ]
  for leaf in random:
    assert np.std(leaf) == pytest.approx(0.02, rel=0.15)
  for module in (encoder['feed_forward_0']['output'], encoder['pooler']):
    np.testing.assert_array_equal(module['bias'], 0)


@pytest.mark.parametrize(
  ('choices', 'message'),
  [
    ({'layer_mixing': ('fourier',)}, 'names 1 layers.*num_layers is 5'),
    ({'layer_mixing': ('dct',) * 5}, "layer_mixing='dct'"),
    ({'layer_mixing': 'linear'}, r"\('linear',\) \* 5"),
    ({'num_heads': 3}, 'num_heads=3 does not divide emb_dim=8'),
    ({'fourier_lengths': 'short'}, "fourier_lengths='short'"),
    ({'dropout_rate': 1.0}, 'DROPOUT_RATE is 1.0'),
  ],
)
def test_wrong_configurations_are_a_one_line_error(choices, message):
  with pytest.raises(ValueError, match=message) as error:
    fnet.FNetConfig(**SIZES | choices)
  assert '\n' not in str(error.value)


def test_rows_longer_than_the_position_table():
  module, params = build()
  tokens = jnp.ones((1, 9), jnp.int32)
  with pytest.raises(ValueError, match=r'9 tokens.*max_length=8'):
    run(module, params, tokens, tokens)


def test_class_logits_need_classes():
  module, params = build(num_classes=None)
  with pytest.raises(ValueError, match='set num_classes'):
    module.apply(
      {'params': params}, jnp.ones((1, 8)), method=module.class_logits
    )
