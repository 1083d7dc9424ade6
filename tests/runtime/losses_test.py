"""Cross-entropy against float64 NumPy, and the normalisers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.runtime import losses

Factor = losses.SpecialLossNormalizingFactor


def make_problem(batch=2, length=5, vocab=17, scale=3.0):
  random = np.random.RandomState(0)
  logits = scale * random.normal(size=(batch, length, vocab))
  targets = random.randint(0, vocab, size=(batch, length))
  weights = random.uniform(size=(batch, length))
  return logits.astype(np.float32), targets, weights.astype(np.float32)


def reference(logits, targets, weights, smoothing, z_loss):
  """Loss, z-loss part and gradient of the weighted sum, in float64."""
  logits = logits.astype(np.float64)
  vocab = logits.shape[-1]
  log_z = np.log(np.exp(logits).sum(-1))
  goal = np.full(logits.shape, smoothing / (vocab - 1))
  np.put_along_axis(goal, targets[..., None], 1 - smoothing, axis=-1)
  entropy = -np.sum(goal[0, 0] * np.log(np.maximum(goal[0, 0], 1e-300)))
  cross_entropy = log_z - (goal * logits).sum(-1)
  penalty = z_loss * log_z**2
  softmax = np.exp(logits - log_z[..., None])
  gradient = softmax * (1 + 2 * z_loss * log_z)[..., None] - goal
  return (
    ((cross_entropy - entropy + penalty) * weights).sum(),
    (penalty * weights).sum(),
    gradient * weights[..., None],
  )


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
@pytest.mark.parametrize('z_loss', [0.0, 0.05])
def test_loss_and_gradient_equal_float64(smoothing, z_loss):
  logits, targets, weights = make_problem()

  def loss_fn(logits):
    loss, penalty, weight_sum = losses.compute_weighted_cross_entropy(
      logits, targets, weights, smoothing, z_loss
    )
    return loss, (penalty, weight_sum)

  (loss, (penalty, weight_sum)), gradient = jax.jit(
    jax.value_and_grad(loss_fn, has_aux=True)
  )(logits)
  want = reference(logits, targets, weights, smoothing, z_loss)
  np.testing.assert_allclose(loss, want[0], rtol=1e-6)
  np.testing.assert_allclose(penalty, want[1], rtol=1e-6)
  np.testing.assert_allclose(gradient, want[2], atol=1e-6)
  np.testing.assert_allclose(weight_sum, weights.sum(), rtol=1e-6)
  # The value without a gradient is computed on its own.
  np.testing.assert_allclose(loss_fn(logits)[0], want[0], rtol=1e-6)


def test_loss_of_huge_logits_is_finite():
  logits = np.array([[[1e4, -1e4, 0.0]]], np.float32)
  loss, gradient = jax.value_and_grad(
    lambda x: losses.compute_weighted_cross_entropy(x, np.array([[1]]))[0]
  )(logits)
  np.testing.assert_allclose(loss, 2e4, rtol=1e-6)
  np.testing.assert_allclose(gradient, [[[1.0, -1.0, 0.0]]], atol=1e-6)


def test_ids_equal_distributions_in_values_and_gradients():
  logits, ids, _ = make_problem()
  vocab = logits.shape[-1]
  ids[0, 0] = vocab  # hits nothing
  on, off = 0.9, 0.1 / (vocab - 1)
  dense = np.where(np.arange(vocab) == ids[..., None], on, off)
  slope = np.random.RandomState(1).normal(size=ids.shape).astype(np.float32)

  def by_ids(logits):
    loss, _ = losses.cross_entropy_with_ids(logits, ids, 0.02, on, off)
    return jnp.sum(slope * loss)

  def by_distributions(logits, targets):
    loss, _ = losses.cross_entropy_with_logits(logits, targets, 0.02)
    return jnp.sum(slope * loss)

  dense = dense.astype(np.float32)
  got = jax.value_and_grad(by_ids)(logits)
  want = jax.value_and_grad(by_distributions)(logits, dense)
  np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
  np.testing.assert_allclose(got[1], want[1], atol=1e-6)
  target_gradient = jax.grad(by_distributions, argnums=1)(logits, dense)
  log_probs = jax.nn.log_softmax(logits)
  np.testing.assert_allclose(
    target_gradient, -slope[..., None] * log_probs, atol=1e-5
  )


def test_bfloat16_logits_keep_their_dtype_and_are_close():
  logits, targets, weights = make_problem()
  loss, gradient = jax.value_and_grad(
    lambda x: losses.compute_weighted_cross_entropy(x, targets, weights)[0]
  )(jnp.asarray(logits, jnp.bfloat16))
  want = reference(logits, targets, weights, 0.0, 0.0)
  assert gradient.dtype == jnp.bfloat16
  np.testing.assert_allclose(loss, want[0], rtol=2e-2)
  np.testing.assert_allclose(gradient.astype(np.float32), want[2], atol=2e-2)


def test_normalizing_factor_divides_both_sums():
  logits, targets, weights = make_problem()
  whole = losses.compute_weighted_cross_entropy(
    logits, targets, weights, z_loss=0.1
  )
  part = losses.compute_weighted_cross_entropy(
    logits, targets, weights, z_loss=0.1, loss_normalizing_factor=4.0
  )
  np.testing.assert_allclose(part[0], whole[0] / 4, rtol=1e-6)
  np.testing.assert_allclose(part[1], whole[1] / 4, rtol=1e-6)
  np.testing.assert_allclose(part[2], whole[2])


def test_shapes_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match=r'logits of shape \(2, 3\)'):
    losses.compute_weighted_cross_entropy(
      jnp.zeros((2, 3)), jnp.zeros((2, 3), jnp.int32)
    )


TARGETS = jnp.array([[5, 6, 7, 1], [8, 1, 0, 0]])


@pytest.mark.parametrize('factor', [None, 3.5])
def test_numbers_pass_as_they_are(factor):
  weights = jnp.ones((2, 4))
  batch = {'decoder_target_tokens': TARGETS, 'decoder_loss_weights': weights}
  got = losses.get_loss_normalizing_factor_and_weights(factor, batch)
  assert got[0] == factor and got[1] is weights
  del batch['decoder_loss_weights']
  got = losses.get_loss_normalizing_factor_and_weights(factor, batch)
  assert got == (factor, None)


@pytest.mark.parametrize(
  ('factor', 'want_factor', 'want_weights'),
  [
    (Factor.NUM_REAL_TARGET_TOKENS, 6, [[1, 1, 1, 1], [1, 1, 0, 0]]),
    ('num_total_target_tokens', 8, [[1, 1, 1, 1], [1, 1, 0, 0]]),
    ('AVERAGE_PER_SEQUENCE', 2, [[1 / 4] * 4, [1 / 2, 1 / 2, 0, 0]]),
  ],
)
def test_normalizers_of_a_batch_without_weights(
  factor, want_factor, want_weights
):
  batch = {'decoder_target_tokens': TARGETS}
  got = losses.get_loss_normalizing_factor_and_weights(factor, batch)
  np.testing.assert_allclose(got[0], want_factor)
  np.testing.assert_allclose(got[1], want_weights)


def test_average_per_sequence_of_a_packed_batch():
  batch = {
    'decoder_target_tokens': jnp.array(
      [[2, 3, 4, 5, 6, 0], [7, 8, 9, 1, 0, 0]]
    ),
    # The second row's examples share an id: positions tell them apart.
    'decoder_segment_ids': jnp.array([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 0, 0]]),
    'decoder_positions': jnp.array([[0, 1, 0, 1, 2, 0], [0, 1, 0, 1, 0, 0]]),
    'decoder_loss_weights': jnp.array(
      [[1, 3, 2, 2, 4, 0], [0, 0, 1, 1, 0, 0.0]]
    ),
  }
  factor, weights = losses.get_loss_normalizing_factor_and_weights(
    'average_per_sequence', batch
  )
  np.testing.assert_allclose(
    weights,
    [[0.25, 0.75, 0.25, 0.25, 0.5, 0], [0, 0, 0.5, 0.5, 0, 0]],
    rtol=1e-6,
  )
  np.testing.assert_allclose(factor, 3, rtol=1e-6)


def test_unknown_normalizer_names_the_known_ones():
  with pytest.raises(ValueError, match=r"'tokens'.*NUM_REAL_TARGET_TOKENS"):
    losses.get_loss_normalizing_factor_and_weights('tokens', {})
