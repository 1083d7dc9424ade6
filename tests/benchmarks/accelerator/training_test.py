"""Training steps and their parts: shapes, counts and losses."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.benchmarks.accelerator import (
  networks,
  quick_values,
  step_parts,
  training,
  training_step,
)
from fnet_t5x.benchmarks.accelerator.bench import Setting
from fnet_t5x.costs import flops
from fnet_t5x.fourier.mixing import make_mixing_plan
from fnet_t5x.networks.segments import positions_of_segments

SETTING = Setting('cpu', 'float32', toy=True)
ROWS, INPUTS, TARGETS = 2, 16, 8


def module_of(name):
  return networks.make(
    name, 'toy', dtype=SETTING.dtype, max_encoder_length=INPUTS
  )


def count(tree):
  return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


@pytest.mark.slow
@pytest.mark.parametrize('name', networks.NETWORKS)
def test_quick_values_have_the_layout_of_real_ones(name):
  module = module_of(name)
  quick = training_step.make_optimizer(module, None)
  real = jax.eval_shape(
    lambda key: training_step.make_optimizer(module, key), jax.random.key(0)
  )
  like = jax.tree.map(lambda x: (x.shape, x.dtype), (real.target, real.state))
  got = jax.tree.map(lambda x: (x.shape, x.dtype), (quick.target, quick.state))
  assert got == like
  embedding = quick.target['token_embedder']['embedding']
  assert np.std(embedding) == pytest.approx(1, rel=0.05)
  logits = quick.target['decoder']['logits_dense']['kernel']
  assert np.std(logits) == pytest.approx(64**-0.5, rel=0.05)


def part_parameters(config, part):
  """Returns the shapes of one part's parameters."""
  encoded = jax.ShapeDtypeStruct((ROWS, INPUTS, config.emb_dim), config.dtype)
  decoded = jax.ShapeDtypeStruct((ROWS, TARGETS, config.emb_dim), config.dtype)
  arguments = {
    'Fourier mixing': ('mixing', encoded, 'plan'),
    'encoder attention': ('encoder attention', encoded),
    'decoder attention': ('decoder attention', decoded),
    'cross-attention': ('cross-attention', decoded, encoded),
    'encoder feed-forward': ('feed-forward', encoded),
    'decoder feed-forward': ('feed-forward', decoded),
  }
  kind, *shared = arguments[part]
  if shared[-1] == 'plan':
    real = jnp.ones((ROWS, INPUTS), bool)
    shared[-1] = make_mixing_plan(real, embed=config.emb_dim)
  layer = step_parts.Sublayer(config, kind)
  shapes = jax.eval_shape(layer.init, jax.random.key(0), *shared)
  return count(shapes['params'])


@pytest.mark.slow
@pytest.mark.parametrize('name', networks.NETWORKS)
def test_parts_hold_all_parameters_of_the_network(name):
  module = module_of(name)
  config = module.config
  tokens = jnp.ones((1, 8), jnp.int32)
  shapes = jax.eval_shape(
    module.init, jax.random.key(0), tokens, tokens, tokens
  )
  parts = step_parts.parts(module, SETTING, ROWS, INPUTS, TARGETS)
  assert {part.group for part in parts.values()} <= set(step_parts.GROUPS)
  found = sum(
    part.count * part_parameters(config, part_name)
    for part_name, part in parts.items()
    if part.group in ('mixing', 'attention', 'feed-forward')
  )
  # Both look-ups share a table; two norms end the stacks.
  found += 2 * config.vocab_size * config.emb_dim + 2 * config.emb_dim
  if name != 'T5':
    found += INPUTS * config.emb_dim  # learned positions
  assert found == count(shapes['params'])


def test_parts_of_each_network():
  counts = {
    name: {
      part_name: part.count
      for part_name, part in step_parts.parts(
        module_of(name), SETTING, ROWS, INPUTS, TARGETS
      ).items()
    }
    for name in ('T5', 'hybrid', 'control')
  }
  assert counts['T5']['encoder attention'] == 4
  assert 'Fourier mixing' not in counts['T5']
  assert counts['hybrid'] == counts['control'] | {'Fourier mixing': 2}
  assert counts['control']['encoder attention'] == 2
  for of_network in counts.values():
    assert of_network['encoder feed-forward'] == 4
    assert of_network['cross-attention'] == 2


def test_packed_batches_count_positions_in_each_example():
  batch = training_step.make_batch(2, 20, 10, 50, packed=True)
  for side, length in (('encoder', 20), ('decoder', 10)):
    segments = batch[f'{side}_segment_ids']
    assert segments.shape == (2, length)
    assert sorted(set(np.asarray(segments).ravel())) == [1, 2, 3]
    np.testing.assert_array_equal(
      batch[f'{side}_positions'], positions_of_segments(segments)
    )
  inputs = batch['decoder_input_tokens']
  np.testing.assert_array_equal(
    inputs[:, 1:], batch['decoder_target_tokens'][:, :-1]
  )
  assert not inputs[:, 0].any()


def test_a_part_is_timed_forward_and_backward():
  layer = step_parts.Sublayer(module_of('T5').config, 'feed-forward')
  x = jax.ShapeDtypeStruct((ROWS, TARGETS, 64), jnp.float32)
  result = step_parts.time_sublayer(layer, SETTING, x)
  assert result['run_seconds'] > 0 and result['compile_seconds'] > 0


def test_filled_arrays_have_the_scale_of_initial_values():
  shapes = {
    'scale': jax.ShapeDtypeStruct((8,), jnp.float32),
    'kernel': jax.ShapeDtypeStruct((400, 30), jnp.bfloat16),
  }
  filled = quick_values.fill(shapes)
  np.testing.assert_array_equal(filled['scale'], 1)
  assert filled['kernel'].dtype == jnp.bfloat16
  std = np.std(filled['kernel'].astype(np.float32))
  assert std == pytest.approx(1 / 20, rel=0.05)


def test_loss_is_nats_per_target_token_with_z_loss():
  module = module_of('control')
  params = training_step.make_optimizer(module, None).target
  batch = training_step.make_batch(ROWS, INPUTS, TARGETS, 512)
  loss, logits = jax.jit(
    lambda params: (
      training_step.loss(module, params, batch),
      module.apply(
        {'params': params},
        batch['encoder_input_tokens'],
        batch['decoder_input_tokens'],
        batch['decoder_target_tokens'],
        enable_dropout=False,
      ),
    )
  )(params)
  logits = np.asarray(logits, np.float64)
  log_z = np.log(np.exp(logits).sum(-1))
  targets = np.asarray(batch['decoder_target_tokens'])[..., None]
  chosen = np.take_along_axis(logits, targets, -1)[..., 0]
  want = np.mean(log_z - chosen + training_step.Z_LOSS * log_z**2)
  assert loss == pytest.approx(want, rel=1e-5)


def test_gpt2_reads_targets_after_their_inputs():
  inputs = np.array([[5, 6, 7, 1], [8, 1, 0, 0]])
  targets = np.array([[9, 9, 1], [4, 1, 0]])
  batch = training_step.decoder_only_features(
    jnp.asarray(inputs), jnp.asarray(targets)
  )
  text = [[5, 6, 7, 1, 9, 9, 1], [8, 1, 4, 1, 0, 0, 0]]
  weights = [[0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0, 0]]
  before = [[0, 5, 6, 7, 1, 9, 9], [0, 8, 1, 4, 1, 0, 0]]
  np.testing.assert_array_equal(batch['decoder_target_tokens'], text)
  np.testing.assert_array_equal(batch['decoder_loss_weights'], weights)
  np.testing.assert_array_equal(batch['decoder_input_tokens'], before)


def test_gpt2_is_trained_on_targets_alone():
  module = networks.DECODER_ONLY.make(
    'toy',
    num_layers=1,
    max_encoder_length=INPUTS,
    max_target_length=TARGETS,
  )
  params = training_step.make_optimizer(module, None).target
  # The tied output layer's logits would be too large for a precise loss.
  params = jax.tree.map(lambda x: x / 8, params)
  whole = training_step.make_batch(ROWS, INPUTS, TARGETS, 512)
  inputs, targets = (
    whole[f'{name}_tokens'] for name in ('encoder_input', 'decoder_target')
  )
  batch = training_step.features_of(module, inputs, targets)
  loss = training_step.loss(module, params, batch)
  text = np.concatenate([inputs, targets], axis=1)
  logits = module.apply(
    {'params': params},
    jnp.pad(text, ((0, 0), (1, 0)))[:, :-1],
    text,
    enable_dropout=False,
  )
  logits = np.float64(logits)[:, INPUTS:]
  log_z = np.log(np.exp(logits).sum(-1))
  chosen = np.take_along_axis(logits, np.asarray(targets)[..., None], -1)
  want = np.mean(log_z - chosen[..., 0] + training_step.Z_LOSS * log_z**2)
  assert loss == pytest.approx(want, rel=1e-5)


@pytest.mark.slow
def test_a_step_of_gpt2_is_timed():
  sizes = training.Sizes('toy', ROWS, INPUTS, TARGETS)
  found = training.time_step(networks.DECODER_ONLY, SETTING, sizes)
  config = training.make(networks.DECODER_ONLY, SETTING, sizes).config
  by_formula = flops.decoder_only_flops(config, INPUTS + TARGETS)
  assert found['flops'] == ROWS * by_formula.training
  assert found['run_seconds'] > 0 and np.isfinite(found['loss'])
