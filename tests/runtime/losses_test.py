"""Cross-entropy against float64 NumPy, in chunks too; normalisers by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen.partitioning import axis_rules
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fnet_t5x.runtime import losses
from fnet_t5x.runtime.partitioning import standard_logical_axis_rules

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


@pytest.mark.slow
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
  ids[0, 0] = vocab  # matches nothing
  on, off, z_loss = 0.9, 0.1 / (vocab - 1), 0.02
  goal = np.where(np.arange(vocab) == ids[..., None], on, off)
  slope = np.random.RandomState(1).normal(size=ids.shape).astype(np.float32)

  def by_ids(logits):
    loss, _ = losses.cross_entropy_with_ids(logits, ids, z_loss, on, off)
    return jnp.sum(slope * loss)

  got, gradient = jax.value_and_grad(by_ids)(logits)
  logits = logits.astype(np.float64)
  log_z = np.log(np.exp(logits).sum(-1))
  log_probs = logits - log_z[..., None]
  want = z_loss * log_z**2 - (goal * log_probs).sum(-1)
  np.testing.assert_allclose(got, np.sum(slope * want), rtol=1e-6)
  softmax = (1 + 2 * z_loss * log_z)[..., None] * np.exp(log_probs)
  np.testing.assert_allclose(
    gradient, slope[..., None] * (softmax - goal), atol=1e-6
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
    # The examples of the second row share an id; positions separate them.
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


EMBED, VOCAB = 6, 24


def output_problem(batch=8, length=7, vocab=VOCAB):
  random = np.random.RandomState(0)
  hidden = random.normal(size=(batch, length, EMBED))
  kernel = random.normal(size=(EMBED, vocab))
  targets = random.randint(0, vocab, size=(batch, length))
  weights = random.uniform(size=(batch, length))
  weights[:, -2:] = 0
  return (
    hidden.astype(np.float32),
    kernel.astype(np.float32),
    targets,
    weights.astype(np.float32),
  )


def in_chunks(hidden, kernel, targets, weights, columns=2, **options):
  chunk_bytes = int(4 * kernel.shape[1] * hidden.shape[0] * columns)
  return losses.output_cross_entropy(
    hidden, kernel, targets, weights, chunk_bytes=chunk_bytes, **options
  )


# Seven columns: chunks of 2 with padding, of 1, and a single chunk.
@pytest.mark.slow
@pytest.mark.parametrize('columns', [1, 2, 7])
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
@pytest.mark.parametrize('z_loss', [0.0, 0.05])
def test_loss_and_gradients_equal_float64(columns, smoothing, z_loss):
  hidden, kernel, targets, weights = output_problem()

  def loss_fn(hidden, kernel, weights):
    return in_chunks(
      hidden,
      kernel,
      targets,
      weights,
      columns,
      label_smoothing=smoothing,
      z_loss=z_loss,
    )

  # Only the sum has gradients; scaled to test their factor.
  (loss, tokens), gradients = jax.jit(
    jax.value_and_grad(
      lambda *x: (3 * loss_fn(*x)[0], loss_fn(*x)[1]), (0, 1, 2), has_aux=True
    )
  )(hidden, kernel, weights)
  wide = np.float64(hidden), np.float64(kernel)
  logits = wide[0] @ wide[1]
  want, penalty, slope = reference(logits, targets, weights, smoothing, z_loss)
  np.testing.assert_allclose(loss, 3 * want, rtol=1e-5)
  np.testing.assert_allclose(
    np.sum(tokens.z_loss * weights), penalty, rtol=1e-5
  )
  expected = 3 * slope @ wide[1].T, 3 * np.einsum('bld,blv', wide[0], slope)
  np.testing.assert_allclose(gradients[0], expected[0], atol=1e-5)
  np.testing.assert_allclose(gradients[1], expected[1], atol=1e-5)
  np.testing.assert_allclose(gradients[2], 3 * tokens.loss, rtol=1e-6)
  log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  at_target = np.take_along_axis(log_probs, targets[..., None], -1)[..., 0]
  np.testing.assert_allclose(tokens.cross_entropy, -at_target, rtol=1e-4)
  np.testing.assert_array_equal(tokens.correct, logits.argmax(-1) == targets)
  # The value without a gradient is computed on its own.
  np.testing.assert_allclose(
    loss_fn(hidden, kernel, weights)[0], want, rtol=1e-5
  )


def test_the_loss_of_whole_logits_agrees_at_its_edges():
  hidden, kernel, targets, _ = output_problem()
  kernel[:, 5] = kernel[:, 3]  # Ties: the first of them is predicted.
  targets[:, :2] = 3, 5
  targets[0, 3] = VOCAB  # matches nothing
  hidden[1] *= 1e4

  def whole(hidden, kernel):
    logits = jnp.dot(hidden, kernel)
    loss, _, _ = losses.compute_weighted_cross_entropy(
      logits, targets, None, 0.1, 0.0
    )
    return loss, jnp.argmax(logits, axis=-1) == targets

  def chunked(hidden, kernel):
    loss, tokens = in_chunks(hidden, kernel, targets, None, label_smoothing=0.1)
    return loss, tokens.correct

  got, want = (
    jax.jit(jax.value_and_grad(f, (0, 1), has_aux=True))(hidden, kernel)
    for f in (chunked, whole)
  )
  np.testing.assert_allclose(got[0][0], want[0][0], rtol=1e-5)
  np.testing.assert_array_equal(got[0][1], want[0][1])
  np.testing.assert_allclose(got[1][0], want[1][0], atol=1e-4)
  # Hidden values of 1e4 are in these sums.
  np.testing.assert_allclose(got[1][1], want[1][1], rtol=1e-5, atol=1e-1)


@pytest.mark.slow
def test_bfloat16_activations_get_bfloat16_gradients():
  hidden, kernel, targets, weights = output_problem()
  half = jnp.asarray(hidden, jnp.bfloat16)
  gradient = jax.grad(lambda x: in_chunks(x, kernel, targets, weights)[0])
  got, want = gradient(half), gradient(half.astype(jnp.float32))
  assert got.dtype == jnp.bfloat16
  np.testing.assert_array_equal(got, want.astype(jnp.bfloat16))


def sharded(shape, function, *arguments):
  mesh = jax.make_mesh(shape, ('data', 'model'), (AxisType.Auto,) * 2)
  rows = NamedSharding(mesh, PartitionSpec('data'))
  columns = NamedSharding(mesh, PartitionSpec(None, 'model'))
  with jax.set_mesh(mesh), axis_rules(standard_logical_axis_rules()):
    return (
      jax.jit(
        function,
        in_shardings=(rows, columns, rows, rows),
        out_shardings=((None, rows), (rows, columns)),
      )
      .lower(*arguments)
      .compile()
    )


@pytest.mark.parametrize('shape', [(8, 1), (2, 4)])
def test_meshes_agree_and_gather_no_logits(shape):
  arguments = output_problem(length=6)
  # Two chunks of three columns per device.
  columns = 3 / shape[0]
  step = jax.value_and_grad(
    functools.partial(
      in_chunks, columns=columns, z_loss=0.05, label_smoothing=0.1
    ),
    (0, 1),
    has_aux=True,
  )
  compiled = sharded(shape, step, *arguments)
  got, want = compiled(*arguments), jax.jit(step)(*arguments)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    got,
    want,
  )
  text = compiled.as_text()
  assert 'while(' in text
  assert 'all-gather' not in text and 'all-to-all' not in text
  assert 'collective-permute' not in text
  # The kernel's gradient is summed over devices once, after the loop.
  vocab = VOCAB // shape[1]
  loop = [line for line in text.splitlines() if 'all-reduce(' in line]
  sums = [line for line in loop if f'{EMBED},{vocab}]' in line]
  assert len(sums) == 1 and 'while/body' not in sums[0]


def test_memory_is_that_of_a_chunk():
  hidden, kernel = (64, 128, 16), (16, 512)
  arguments = (
    jax.ShapeDtypeStruct(hidden, jnp.float32),
    jax.ShapeDtypeStruct(kernel, jnp.float32),
    jax.ShapeDtypeStruct(hidden[:2], jnp.int32),
    jax.ShapeDtypeStruct(hidden[:2], jnp.float32),
  )
  logits = 64 * 128 * 512 * 4

  def temporaries(columns):
    step = jax.grad(lambda *x: in_chunks(*x, columns=columns)[0], (0, 1))
    compiled = jax.jit(step).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporaries(4) < logits / 4 < logits < temporaries(128)
