"""Networks of equal numbers of parameters."""

import jax
import pytest

from fnet_t5x.benchmarks.accelerator import networks

MATCHED = (*networks.NETWORKS.values(), networks.DECODER_ONLY)


@pytest.mark.parametrize('size', ['toy', 'mini', 'base'])
@pytest.mark.parametrize('network', MATCHED, ids=lambda network: network.name)
def test_no_other_depth_is_nearer_to_t5(network, size):
  t5 = networks.count_parameters(networks.NETWORKS['T5'].make(size))
  matched = networks.count_parameters(networks.make_matched(network, size))
  if network.name == 'T5':
    assert matched == t5
    return
  depth = networks.matched_depth(
    network,
    size,
    networks.TOY_VOCAB_SIZE if size == 'toy' else networks.VOCAB_SIZE,
  )
  name = 'num_layers' if network.name == 'GPT-2' else 'num_encoder_layers'
  for other in (depth - 1, depth + 1):
    made = network.make(size, **{name: other})
    assert abs(networks.count_parameters(made) - t5) >= abs(matched - t5)


def test_gpt2_is_counted_by_its_shapes():
  module = networks.DECODER_ONLY.make(
    'mini', vocab_size=8192, num_layers=3, max_encoder_length=7
  )
  embed = 256
  # Per layer: kernels of attention, feed-forward block, biases, two norms.
  layer = 12 * embed**2 + 9 * embed + 4 * embed
  expected = 8192 * embed + 3 * layer + 2 * embed
  assert networks.count_parameters(module) == expected
  assert module.config.max_length == 7
  assert module.config.num_heads == 4


def test_mini_has_ten_million_parameters():
  t5 = networks.NETWORKS['T5'].make('mini', vocab_size=8192)
  assert networks.count_parameters(t5) == pytest.approx(10e6, rel=0.1)


def test_learned_positions_do_not_count():
  hybrid = networks.NETWORKS['hybrid']
  short, long = (
    networks.count_parameters(hybrid.make('toy', max_encoder_length=length))
    for length in (8, 800)
  )
  assert short == long
  module = hybrid.make('toy', max_encoder_length=8)
  tokens = networks.example_tokens(module)
  shapes = jax.eval_shape(module.init, jax.random.key(0), *tokens)['params']
  whole = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  assert whole - short == 8 * 64
