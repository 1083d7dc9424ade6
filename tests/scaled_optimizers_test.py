"""Learning rates of the encoder, with Adafactor and with AdamW."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from fnet_t5x import scaled_optimizers
from fnet_t5x.runtime import adafactor, optimizers

PARAMS = {
  'encoder': {'kernel': jnp.linspace(-1.0, 2.0, 12).reshape(3, 4)},
  'decoder': {'kernel': jnp.linspace(0.5, 1.5, 6).reshape(2, 3)},
  # Not of the encoder, as names go.
  'encoder_projection': {'kernel': jnp.linspace(1.0, 2.0, 6).reshape(2, 3)},
}
AXES = jax.tree.map(lambda _: PartitionSpec('embed', 'mlp'), PARAMS)


def make_adafactor(rate):
  made = adafactor.Adafactor(
    rate, logical_factor_rules=adafactor.standard_logical_factor_rules()
  )
  made.set_param_axes(AXES)
  return made


def make_adamw(rate):
  return optimizers.adamw(rate, weight_decay=0.1)


MAKERS = pytest.mark.parametrize('make', [make_adafactor, make_adamw])


def after(optimizer_def, steps, override=None):
  optimizer = optimizer_def.create(PARAMS)
  changes = {} if override is None else {'learning_rate': override}
  for step in range(steps):
    gradients = jax.tree.map(lambda x, n=step: jnp.cos(3.0 * x + n), PARAMS)
    optimizer = optimizer.apply_gradient(gradients, **changes)
  return optimizer


def kernels(optimizer):
  return {
    name: np.asarray(leaf['kernel']) for name, leaf in optimizer.target.items()
  }


@MAKERS
def test_a_scale_is_a_factor_of_the_encoders_learning_rate(make):
  whole = kernels(after(make(0.02), 1))
  fifth = kernels(after(make(0.004), 1))
  got = kernels(after(scaled_optimizers.scale_encoder(make(0.02), 0.2), 1))
  np.testing.assert_allclose(got['encoder'], fifth['encoder'], rtol=1e-6)
  for name in ('decoder', 'encoder_projection'):
    np.testing.assert_array_equal(got[name], whole[name])
  moved = [
    np.abs(x['encoder'] - PARAMS['encoder']['kernel'])
    for x in (
      got,
      whole,
    )
  ]
  assert 0.1 < moved[0].max() / moved[1].max() < 0.3


@MAKERS
def test_a_frozen_encoder_stays_and_the_rest_does_not(make):
  whole = kernels(after(make(0.02), 3))
  got = kernels(after(scaled_optimizers.scale_encoder(make(0.02), 0.0), 3))
  np.testing.assert_array_equal(got['encoder'], PARAMS['encoder']['kernel'])
  for name in ('decoder', 'encoder_projection'):
    np.testing.assert_array_equal(got[name], whole[name])


def test_the_trainers_rate_is_scaled_too():
  """The trainer gives Adafactor the rate of each step."""
  make = scaled_optimizers.scale_encoder
  want = kernels(after(make(make_adafactor(0.02), 0.5), 2))
  got = kernels(after(make(make_adafactor(7.0), 0.5), 2, override=0.02))
  np.testing.assert_array_equal(got['encoder'], want['encoder'])


@MAKERS
def test_state_is_the_optimizers_own(make):
  """A run resumes with another scale."""
  plain = make(0.02).create(PARAMS)
  trained = after(scaled_optimizers.scale_encoder(make(0.02), 0.5), 2)
  restored = plain.restore_state(trained.state_dict())
  jax.tree.map(np.testing.assert_array_equal, trained.state, restored.state)
  scaled = scaled_optimizers.scale_encoder(make(0.02), 0.5)
  derived = scaled.derive_logical_axes(scaled.create(PARAMS), AXES)
  assert jax.tree.structure(
    derived.state_dict(), is_leaf=lambda x: x is None
  ) == jax.tree.structure(
    make(0.02).derive_logical_axes(plain, AXES).state_dict(),
    is_leaf=lambda x: x is None,
  )


def test_no_scale_is_the_optimizer_itself():
  plain = make_adamw(0.02)
  assert scaled_optimizers.scale_encoder(plain, 1.0) is plain


def test_wrong_scales_and_names_are_errors():
  with pytest.raises(ValueError, match='ENCODER_LEARNING_RATE_SCALE is -1'):
    scaled_optimizers.scale_encoder(make_adamw(0.02), -1)
  scaled = scaled_optimizers.ScaledOptimizer(make_adamw(0.02), 0.0, 'encode/.*')
  with pytest.raises(ValueError, match=r'encode/\.\*'):
    after(scaled, 1)
