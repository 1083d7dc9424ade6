"""FLOPs formulas against compiled training steps."""

import jax
import jax.numpy as jnp
import pytest
import small_runs

from fnet_t5x.backend import target_backend
from fnet_t5x.costs import flops
from fnet_t5x.networks import fnet_t5, gpt2, t5
from fnet_t5x.planning import hlo

INPUTS, TARGETS, ROWS = 32, 16, 2
SIZES = {
  'vocab_size': 264,
  'emb_dim': 64,
  'num_heads': 4,
  'head_dim': 8,
  'mlp_dim': 96,
  'mlp_activations': ('gelu', 'linear'),
  'num_encoder_layers': 3,
  'num_decoder_layers': 2,
  'dropout_rate': 0.0,
}
HYBRID = {**SIZES, 'max_encoder_length': INPUTS}


def executed(module):
  """FLOPs per row of the gradients' program, from its matrix products."""
  model = small_runs.model_of(module)
  batch = {
    name: jax.ShapeDtypeStruct((ROWS, length), jnp.int32)
    for name, length in (
      ('encoder_input_tokens', INPUTS),
      ('encoder_segment_ids', INPUTS),
      ('encoder_positions', INPUTS),
      ('decoder_input_tokens', TARGETS),
      ('decoder_target_tokens', TARGETS),
      ('decoder_segment_ids', TARGETS),
      ('decoder_positions', TARGETS),
      ('decoder_loss_weights', TARGETS),
    )
  }
  params = jax.eval_shape(
    lambda: model.get_initial_variables(
      jax.random.PRNGKey(0), {name: x.shape for name, x in batch.items()}
    )['params']
  )

  def gradients(params, batch):
    return jax.grad(lambda p: model.loss_fn(p, batch, None)[0])(params)

  compiled = jax.jit(gradients).lower(params, batch).compile()
  return hlo.cost(compiled.as_text()).flops / ROWS


def of_offset_matrix(tokens):
  """The gradient of four heads' matrices of offsets: products with ones."""
  return 2 * 4 * tokens * 2 * tokens / ROWS


def of_position_biases(*lengths):
  """Look-ups of T5's relative positions, which programs do by matrix products.

  A batch's, not a row's, so that no formula of an example holds them: forward,
  and back to the table of 32 buckets.
  """
  return sum(
    2 * 2 * 4 * 32 * (2 * tokens - 1) / ROWS + of_offset_matrix(tokens)
    for tokens in lengths
  )


@pytest.mark.slow
def test_t5_executes_the_formula():
  config = t5.T5Config(**SIZES)
  by_formula = flops.example_flops(config, INPUTS, TARGETS)
  assert by_formula.mixing == 0
  found = executed(t5.Transformer(config))
  found -= of_position_biases(INPUTS, TARGETS)
  assert found == by_formula.training


# The FFT is over features only: packed rows use matrices over tokens.
# Matrices over both axes compute half of the features on CPU.
@pytest.mark.slow
@pytest.mark.parametrize(
  ('method', 'backend'), [('matmul', 'tpu'), ('matmul', 'cpu'), ('fft', 'cpu')]
)
def test_hybrid_executes_the_formula(method, backend):
  config = fnet_t5.FNetT5Config(**HYBRID, fourier_method=method)
  by_formula = flops.example_flops(config, INPUTS, TARGETS, backend=backend)
  assert by_formula.mixing > 0
  with target_backend(backend):
    found = executed(fnet_t5.Transformer(config))
  found -= of_position_biases(INPUTS, TARGETS)
  assert found == by_formula.training


# Packed rows: Toeplitz mixing by matrices.
@pytest.mark.slow
@pytest.mark.parametrize(
  'mixings',
  [
    ('toeplitz', 'hartley', 'convolution'),
    ('toeplitz_gated', 'toeplitz_gated_dependent', 'hartley_gated'),
  ],
)
def test_other_mixings_execute_the_formula(mixings):
  config = fnet_t5.FNetT5Config(
    **HYBRID, encoder_mixing=mixings, fourier_method='matmul'
  )
  by_formula = flops.example_flops(config, INPUTS, TARGETS, backend='cpu')
  found = executed(fnet_t5.Transformer(config))
  # The decoder's position biases; the encoder has no attention.
  found -= of_position_biases(TARGETS)
  # Once per filter and head, of which the dependent form has two.
  matrices = {'toeplitz': 1, 'toeplitz_gated': 1, 'toeplitz_gated_dependent': 2}
  found -= sum(matrices.get(m, 0) for m in mixings) * of_offset_matrix(INPUTS)
  assert found == by_formula.training


def test_transforms_of_toeplitz_and_hartley():
  def count(mixing, tokens=INPUTS, **choices):
    config = fnet_t5.FNetT5Config(
      **HYBRID, encoder_mixing=(mixing, 'none', 'none'), **choices
    )
    return flops.example_flops(
      config, tokens, TARGETS, packed=False, backend='cpu'
    )

  projections = 2 * INPUTS * 64**2
  none = count('none').encoder
  by_fft = count('toeplitz', toeplitz_method='fft')
  # Two FFTs of 64 real numbers per feature.
  assert by_fft.mixing == 2 * 2.5 * 64 * 64 * 6
  assert by_fft.encoder - none == by_fft.mixing + projections
  assert count('toeplitz', toeplitz_method='matmul').mixing == 0
  dependent = count('toeplitz_gated_dependent', toeplitz_method='fft')
  assert dependent.mixing == 1.5 * by_fft.mixing
  assert count('convolution').encoder - none == 3 * projections
  # Folded matrices, of which a Hartley transform takes twice as many.
  assert count('hartley').mixing - count('fourier').mixing == INPUTS**2 * (
    32 + 1
  )


def test_mixing_differs_by_layer():
  def encoder(*mixing):
    config = fnet_t5.FNetT5Config(**HYBRID, encoder_mixing=mixing)
    return flops.example_flops(config, INPUTS, TARGETS).encoder

  none = encoder('none', 'none', 'none')
  # Three kernels of the feed-forward block, three layers.
  assert none == 3 * 3 * 2 * INPUTS * 64 * 96
  projections = 8 * INPUTS * 64 * 32
  scores = 4 * INPUTS**2 * 32
  assert encoder('none', 'attention', 'none') - none == projections + scores
  linear = 2 * INPUTS**2 * 64 + 2 * INPUTS * 64**2
  assert encoder('linear', 'none', 'none') - none == linear


def test_the_backend_decides_how_features_are_transformed():
  config = fnet_t5.FNetT5Config(**HYBRID)
  on = {
    backend: flops.example_flops(
      config, INPUTS, TARGETS, backend=backend
    ).mixing
    for backend in ('tpu', 'gpu', 'cpu')
  }
  # Matrices over tokens on all backends, on CPU for half of the features.
  by_matrices = 4 * INPUTS * 64 * 64 + 4 * INPUTS**2 * 64
  by_fft = 2.5 * INPUTS * 64 * 6 + 4 * INPUTS**2 * 33
  assert on['gpu'] == on['tpu']
  assert on['tpu'] - on['cpu'] == by_matrices - by_fft
  # Folded matrices for rows that are not packed.
  one_a_row = flops.example_flops(
    config, INPUTS, TARGETS, packed=False, backend='cpu'
  )
  assert on['cpu'] - one_a_row.mixing == 3 * INPUTS**2 * 33


GPT2 = gpt2.GPT2Config(
  vocab_size=264,
  emb_dim=64,
  num_heads=4,
  num_layers=3,
  mlp_dim=96,
  max_length=INPUTS,
  dropout_rate=0.0,
)


def lower_gpt2(config, function):
  """Compiles a function of GPT-2's parameters and tokens."""
  module = gpt2.GPT2(config)
  tokens = jax.ShapeDtypeStruct((ROWS, config.max_length), jnp.int32)
  params = jax.eval_shape(
    lambda: module.init(jax.random.key(0), *2 * (jnp.ones((1, 1), jnp.int32),))[
      'params'
    ]
  )

  def apply(params, tokens):
    return module.apply(
      {'params': params}, tokens, tokens, enable_dropout=False
    )

  return jax.jit(function(apply)).lower(params, tokens).compile()


def test_gpt2_executes_the_formula():
  by_formula = flops.decoder_only_flops(GPT2, INPUTS)
  forward = lower_gpt2(GPT2, lambda apply: apply)
  assert hlo.cost(forward.as_text()).flops / ROWS == by_formula.forward
  gradients = lower_gpt2(
    GPT2,
    lambda apply: jax.grad(lambda params, x: apply(params, x).sum()),
  )
  found = hlo.cost(gradients.as_text()).flops / ROWS
  # The sum's gradient needs no product for the logits themselves.
  assert found == by_formula.training - by_formula.output
  batch = {'decoder_target_tokens': jnp.ones((ROWS, INPUTS))}
  assert flops.batch_flops(GPT2, batch, 'cpu') == by_formula.training * ROWS


@pytest.mark.slow
@pytest.mark.parametrize('method', ['fft', 'matmul'])
@pytest.mark.parametrize('mixing', ['fourier', 'toeplitz', 'none'])
def test_other_mixings_of_gpt2_execute_the_formula(mixing, method):
  config = GPT2.replace(
    decoder_mixing=(mixing,) * 3, fourier_method=method, toeplitz_method=method
  )
  by_formula = flops.decoder_only_flops(config, INPUTS, backend='cpu')
  gradients = lower_gpt2(
    config,
    lambda apply: jax.grad(lambda params, x: apply(params, x).sum()),
  )
  found = hlo.cost(gradients.as_text()).flops / ROWS
  want = by_formula.training - by_formula.output
  if mixing == 'fourier' and method == 'fft':
    # The first layer's, and the kernel of the convolution, once per batch.
    assert found == pytest.approx(want, rel=0.02)
    return
  if mixing == 'toeplitz' and method == 'fft':
    # Transforms of four filters and of their gradients, once per batch.
    assert found == pytest.approx(want, rel=0.05)
    return
  if mixing == 'toeplitz':
    found -= 3 * of_offset_matrix(INPUTS)
  assert found == want


# Packed rows: by matrices.
@pytest.mark.slow
def test_decoder_mixings_execute_the_formula():
  config = fnet_t5.FNetT5Config(
    **HYBRID,
    encoder_mixing=('none',) * 3,
    decoder_mixing=('fourier', 'toeplitz'),
    fourier_method='matmul',
  )
  by_formula = flops.example_flops(config, INPUTS, TARGETS, backend='cpu')
  assert by_formula.mixing > 0
  found = executed(fnet_t5.Transformer(config))
  assert found - of_offset_matrix(TARGETS) == by_formula.training


def test_xla_counts_as_much_for_a_wide_gpt2():
  """Where products outweigh the norms and activations that XLA counts too."""
  config = GPT2.replace(emb_dim=512, num_heads=8, mlp_dim=None, max_length=64)
  compiled = lower_gpt2(config, lambda apply: apply)
  found = compiled.cost_analysis()['flops'] / ROWS
  by_formula = flops.decoder_only_flops(config, 64).forward
  assert found == pytest.approx(by_formula, rel=0.02)
