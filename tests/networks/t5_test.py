"""The T5 network against golden numbers from T5X's."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkout import GOLDEN_DIR
from flax.traverse_util import flatten_dict

from fnet_t5x.networks import t5

GOLDEN = json.loads((GOLDEN_DIR / 't5_network.json').read_text())
NAMES = list(GOLDEN['networks'])


@functools.cache
def network(name, dropout_rate=0.0):
  config = GOLDEN['sizes'] | GOLDEN['networks'][name]['config']
  module = t5.Transformer(t5.T5Config(**config, dropout_rate=dropout_rate))
  ones = jnp.ones((3, 7)), jnp.ones((3, 5)), jnp.ones((3, 5))
  init = jax.jit(functools.partial(module.init, enable_dropout=False))
  return module, init(jax.random.key(GOLDEN['init_seed']), *ones)


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_parameters_are_t5x_s(name):
  variables = network(name)[1]
  axes = flatten_dict(variables['params_axes'])
  got = {
    '/'.join(path): {
      'shape': list(value.shape),
      'axes': list(axes[(*path[:-1], f'{path[-1]}_axes')].names),
      'first': pytest.approx(float(value.ravel()[0]), rel=1e-6),
      'norm': pytest.approx(float(jnp.linalg.norm(value)), rel=1e-6),
    }
    for path, value in flatten_dict(variables['params']).items()
  }
  assert got == GOLDEN['networks'][name]['parameters']


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'batch_name', 'dropout_rate'),
  [
    ('t5_1_1', 'plain', 0.0),
    ('t5_1_1', 'packed', 0.1),
    ('t5_1_0', 'plain', 0.1),
    ('t5_1_0', 'packed', 0.0),
  ],
)
def test_losses_logits_and_gradients_are_t5x_s(name, batch_name, dropout_rate):
  module, variables = network(name, dropout_rate)
  batch = {
    key: jnp.asarray(value)
    for key, value in GOLDEN['batches'][batch_name].items()
  }

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def loss(params):
    logits = module.apply(
      {'params': params},
      **batch,
      enable_dropout=dropout_rate > 0,
      rngs={'dropout': jax.random.key(GOLDEN['dropout_seed'])},
    )
    targets = batch['decoder_target_tokens']
    picked = jnp.take_along_axis(
      jax.nn.log_softmax(logits), targets[..., None], axis=-1
    )[..., 0]
    return -jnp.sum(picked * (targets > 0)), logits

  (value, logits), grads = loss(variables['params'])
  want = GOLDEN['networks'][name]['runs'][f'{batch_name} {dropout_rate}']
  np.testing.assert_allclose(value, want['loss'], rtol=1e-6)
  np.testing.assert_allclose(logits[1, 2, :6], want['logits'], rtol=1e-4)
  got = {
    '/'.join(path): float(jnp.linalg.norm(grad))
    for path, grad in flatten_dict(grads).items()
  }
  assert got == pytest.approx(want['grad_norms'], rel=1e-4)
