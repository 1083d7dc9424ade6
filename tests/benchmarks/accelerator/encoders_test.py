"""The kit's encoders: layouts, the loss, and a toy run."""

import jax
import numpy as np
import pytest

from fnet_t5x.benchmarks.accelerator import encoder_networks, encoders
from fnet_t5x.benchmarks.accelerator.bench import Setting


def test_every_encoder_has_its_mixing():
  layouts = {
    name: encoder_networks.make_network(
      name, 'base', 12, 512, 'float32'
    ).config.mixings
    for name in encoder_networks.ENCODERS
  }
  assert layouts['BERT'] == ('attention',) * 12
  assert layouts['FNet'] == ('fourier',) * 12
  assert layouts['FNet-Hybrid'] == ('fourier',) * 10 + ('attention',) * 2


@pytest.mark.slow
def test_untrained_loss_is_that_of_uniform_guesses():
  module = encoder_networks.make_network('FF-only', 'toy', 1, 16, 'float32')
  batch = encoders.make_batch(2, 16, 64)
  assert batch['places'].shape == (2, 2)

  @jax.jit
  def untrained_loss(key, batch):
    variables = module.init(key, batch['tokens'], enable_dropout=False)
    return encoders.loss(module, variables['params'], batch)

  got = untrained_loss(jax.random.key(0), batch)
  assert abs(float(got) - np.log(64) - np.log(2)) < 0.2


@pytest.mark.slow
def test_times_are_those_of_a_batch():
  setting = Setting('cpu', 'float32', toy=True)
  (sizes,) = encoders.all_sizes(setting)
  found = encoders.time_encoder('FNet', setting, sizes)
  assert found['run_seconds'] > 0
  assert found['sequences_per_second'] == sizes.rows / found['run_seconds']
