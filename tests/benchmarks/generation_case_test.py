"""Generation in two programs: its tokens, and what a step reads."""

import numpy as np
import pytest

from fnet_t5x.benchmarks import generation_case
from fnet_t5x.benchmarks.accelerator import generation, networks

SIZES = generation_case.Sizes('toy', prefix=12, rows=2, tokens=5)
NETWORKS = {
  'hybrid': networks.NETWORKS['hybrid'],
  'GPT-2': networks.DECODER_ONLY,
}

# Four programs of several layers to compile.
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module', params=NETWORKS)
def case(request):
  return generation_case.GenerationCase(NETWORKS[request.param], SIZES)


def test_both_programs_generate_what_one_does(case):
  """Again and again, although the second one donates its caches."""
  whole = generation.generate(
    case.module, case._params, case._prefix, SIZES.tokens
  )
  for _ in range(3):
    tokens = np.concatenate([case.first(), case.rest()], axis=1)
    np.testing.assert_array_equal(tokens, whole)


def test_the_encoder_alone(case):
  found = case.encode()
  if networks.is_decoder_only(case.module):
    assert found is None
    return
  want = case.module.apply(
    {'params': case._params},
    case._prefix,
    enable_dropout=False,
    method='encode',
  )
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


def test_costs_are_those_of_the_shapes(case):
  found = case.costs('cpu')
  width, vocab_size, embed = 4, 512, 64
  config = case.module.config
  counters = 100 * SIZES.rows
  if networks.is_decoder_only(case.module):
    layers = config.num_layers
    layer = 12 * embed**2 + 13 * embed
    read = vocab_size * embed + layers * layer + 2 * embed
    cached = layers * 2 * SIZES.rows * (12 + 5) * embed
  else:
    # Four projections twice, three kernels, three norms; position biases.
    layer = 8 * embed**2 + 3 * embed * 128 + 3 * embed
    read = vocab_size * embed + 2 * layer + embed + 2 * 32
    cached = 2 * 2 * SIZES.rows * (12 + 5) * embed
  assert 0 <= found['bytes_per_step'] - width * (read + cached) <= counters
  assert found['parameters'] == networks.count_parameters(case.module)
  # Parameters and caches at least.
  assert found['peak_bytes'] > width * (found['parameters'] + cached)
  assert case.kept_bytes() <= found['peak_bytes']
