"""The loss in chunks, against float64 and against the loss of whole logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen.partitioning import axis_rules
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fnet_t5x.runtime import losses, output_loss
from fnet_t5x.runtime.mesh import standard_logical_axis_rules

EMBED, VOCAB = 6, 24


def make_problem(batch=8, length=7, vocab=VOCAB):
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


def reference(logits, targets, weights, smoothing, z_loss):
  """Loss, z-loss part and gradient by the logits, in float64."""
  vocab = logits.shape[-1]
  log_z = np.log(np.exp(logits).sum(-1))
  log_probs = logits - log_z[..., None]
  goal = np.full(logits.shape, smoothing / (vocab - 1))
  np.put_along_axis(goal, targets[..., None], 1 - smoothing, axis=-1)
  # 0 log 0 = 0.
  entropy = -np.sum(goal[0, 0] * np.log(np.maximum(goal[0, 0], 1e-300)))
  penalty = z_loss * log_z**2
  loss = -np.sum(goal * log_probs, axis=-1) - entropy + penalty
  slope = np.exp(log_probs) * (1 + 2 * z_loss * log_z)[..., None] - goal
  return (
    np.sum(loss * weights),
    np.sum(penalty * weights),
    slope * weights[..., None],
  )


def in_chunks(hidden, kernel, targets, weights, columns=2, **options):
  chunk_bytes = int(4 * kernel.shape[1] * hidden.shape[0] * columns)
  return output_loss.output_cross_entropy(
    hidden, kernel, targets, weights, chunk_bytes=chunk_bytes, **options
  )


# Seven columns: in pieces of 2 with one to spare, one by one, and all at once.
@pytest.mark.parametrize('columns', [1, 2, 7])
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
@pytest.mark.parametrize('z_loss', [0.0, 0.05])
def test_loss_and_gradients_equal_float64(columns, smoothing, z_loss):
  hidden, kernel, targets, weights = make_problem()

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

  # Only the sum has gradients; scaled, so that their factor shows.
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
  hidden, kernel, targets, _ = make_problem()
  kernel[:, 5] = kernel[:, 3]  # Ties: the first of them is predicted.
  targets[:, :2] = 3, 5
  targets[0, 3] = VOCAB  # hits nothing
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


def test_bfloat16_activations_get_bfloat16_gradients():
  hidden, kernel, targets, weights = make_problem()
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
  arguments = make_problem(length=6)
  # Two chunks of three columns on a device.
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
