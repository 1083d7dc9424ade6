"""Cross-entropy of an output layer, whose logits are never held as a whole.

Logits are [batch, length, vocab], by far the largest array of a training step,
and a loss computed from them wants several of their size. Here positions are
taken in chunks. Since the loss is one number, its gradients by a chunk's logits
are known as soon as the logits are: the forward pass turns them into gradients
of the activations and of the kernel, and forgets them. No product is computed
twice, and what is kept for the backward pass has the size of the activations
and of the kernel.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax.linen.partitioning import logical_to_mesh_axes
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from fnet_t5x.fourier import data_parallel
from fnet_t5x.runtime import losses

# Of the logits of a chunk on a device. Large enough for products at full
# speed, and for the kernel's gradient, read and written once per chunk, to
# matter little.
CHUNK_BYTES = 64 * 2**20


class TokenLosses(NamedTuple):
  """What is known of each position; no gradients flow through it.

  Attributes:
    loss: cross-entropy with smoothed targets, z-loss included, in nats.
    z_loss: the part of `loss` due to z-loss.
    cross_entropy: -log softmax(logits) at the target, in nats.
    correct: whether the target has the highest logit.
  """

  loss: Float[Array, 'batch length']
  z_loss: Float[Array, 'batch length']
  cross_entropy: Float[Array, 'batch length']
  correct: Bool[Array, 'batch length']


class _Setting(NamedTuple):
  """What is known when the program is made: see `output_cross_entropy`."""

  label_smoothing: float
  z_loss: float
  chunk_bytes: int
  axes: tuple[str, ...]


def output_cross_entropy(
  hidden: Float[Array, 'batch length embed'],
  kernel: Float[Array, 'embed vocab'],
  targets: Int[Array, 'batch length'],
  weights: Float[Array, 'batch length'] | None = None,
  label_smoothing: float = 0.0,
  z_loss: float = 0.0,
  chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Float[Array, ''], TokenLosses]:
  """Sums the cross-entropy of `hidden @ kernel` against token ids.

  Equal to `losses.compute_weighted_cross_entropy` of these logits, in value
  and in gradients.

  Args:
    hidden: what the output layer takes.
    kernel: the output layer. The product is in float32.
    targets: token ids; one outside the vocabulary hits nothing.
    weights: weight of each position; None weighs all of them 1.
    label_smoothing: as `compute_weighted_cross_entropy` takes it.
    z_loss: weight of (log Z)^2.
    chunk_bytes: of the logits that a device holds at a time.

  Returns:
    The weighted sum in nats, and what it is a sum of.
  """
  if weights is None:
    weights = jnp.ones(targets.shape, jnp.float32)
  axes, groups = _row_groups(targets.shape[0])
  setting = _Setting(label_smoothing, z_loss, chunk_bytes, axes)
  # A group of rows for each device along the batch: every device then sums
  # gradients of the kernel over its own rows, and all devices once, where a
  # sum over the whole batch would be one of all devices for each chunk.
  total, tokens = _weighted_sum(
    _grouped(hidden.astype(jnp.float32), groups),
    kernel.astype(jnp.float32),
    _grouped(targets, groups),
    _grouped(weights.astype(jnp.float32), groups),
    setting,
  )
  return total, jax.tree.map(lambda x: x.reshape(targets.shape), tokens)


def _row_groups(batch: int) -> tuple[tuple[str, ...], int]:
  """Mesh axes that a batch is spread over, and in how many parts."""
  mesh = data_parallel.context_mesh()
  axes = logical_to_mesh_axes(('batch',))[0]
  axes = (axes,) if isinstance(axes, str) else axes or ()
  axes = tuple(axis for axis in axes if mesh and axis in mesh.axis_names)
  groups = math.prod(mesh.shape[axis] for axis in axes)
  return (axes, groups) if batch % groups == 0 else ((), 1)


def _grouped(x, groups):
  return x.reshape(groups, x.shape[0] // groups, *x.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _weighted_sum(hidden, kernel, targets, weights, setting):
  total, tokens, _ = _in_chunks(
    hidden, kernel, targets, weights, setting, with_gradients=False
  )
  return total, tokens


def _weighted_sum_fwd(hidden, kernel, targets, weights, setting):
  total, tokens, gradients = _in_chunks(
    hidden, kernel, targets, weights, setting, with_gradients=True
  )
  return (total, tokens), (*gradients, tokens.loss)


def _weighted_sum_bwd(setting, residuals, cotangents):
  del setting
  hidden_gradient, kernel_gradient, loss = residuals
  slope = cotangents[0]
  return slope * hidden_gradient, slope * kernel_gradient, None, slope * loss


_weighted_sum.defvjp(_weighted_sum_fwd, _weighted_sum_bwd)


def _in_chunks(hidden, kernel, targets, weights, setting, with_gradients):
  """The weighted sum, `TokenLosses`, and gradients by hidden and kernel.

  Arrays are [group, row, length, ...].
  """
  rows, length = targets.shape[1:]
  embed, vocab = kernel.shape
  columns = max(1, setting.chunk_bytes // (4 * vocab * rows))
  chunks = -(-length // columns)
  columns = -(-length // chunks)
  spare = chunks * columns - length
  if spare:
    hidden, targets, weights = (
      jnp.pad(x, ((0, 0), (0, 0), (0, spare), *((0, 0),) * (x.ndim - 3)))
      for x in (hidden, targets, weights)
    )

  def one_chunk(kernel_gradient, start):
    part, ids, weight = (
      jax.lax.dynamic_slice_in_dim(x, start, columns, axis=2)
      for x in (hidden, targets, weights)
    )
    logits = jnp.einsum('grcd,dv->grcv', part, kernel)
    tokens, slope = _token_losses(logits, ids, setting)
    if not with_gradients:
      return None, (tokens, None)
    slope = weight[..., None] * slope
    hidden_gradient = jnp.einsum('grcv,dv->grcd', slope, kernel)
    added = jnp.einsum('grcd,grcv->gdv', part, slope)
    return _on_axes(kernel_gradient + added, setting), (tokens, hidden_gradient)

  kernel_gradient = None
  if with_gradients:
    groups = hidden.shape[0]
    kernel_gradient = jnp.zeros((groups, embed, vocab), jnp.float32)
    kernel_gradient = _on_axes(kernel_gradient, setting)
  if chunks == 1:
    kernel_gradient, outputs = one_chunk(kernel_gradient, 0)
  else:
    kernel_gradient, outputs = jax.lax.scan(
      one_chunk, kernel_gradient, columns * jnp.arange(chunks)
    )
    outputs = jax.tree.map(_joined, outputs)
  tokens, hidden_gradient = jax.tree.map(lambda x: x[:, :, :length], outputs)
  total = jnp.sum(tokens.loss * weights[:, :, :length])
  if with_gradients:
    kernel_gradient = jnp.sum(kernel_gradient, axis=0)
  return total, tokens, (hidden_gradient, kernel_gradient)


def _on_axes(x, setting):
  """Lays groups over the mesh axes of the batch, and leaves the rest to XLA."""
  if not setting.axes:
    return x
  rest = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
  return jax.lax.with_sharding_constraint(x, PartitionSpec(setting.axes, *rest))


def _joined(x):
  """[chunk, group, row, column, ...] as [group, row, length, ...]."""
  x = jnp.moveaxis(x, 0, 2)
  return x.reshape(*x.shape[:2], -1, *x.shape[4:])


def _token_losses(logits, ids, setting):
  """`TokenLosses` of a chunk, and d loss / d logits.

  Only elementwise arithmetic and plain reductions over the vocabulary: where
  that is spread over devices, they exchange a few numbers per position.
  """
  vocab = logits.shape[-1]
  smoothing = setting.label_smoothing
  on_value, off_value, target_entropy = losses.smoothed_targets(
    smoothing, vocab
  )
  index = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
  hit = index == ids[..., None]
  peak = jnp.max(logits, axis=-1, keepdims=True)
  shifted = logits - peak
  exponentials = jnp.exp(shifted)
  total = jnp.sum(exponentials, axis=-1, keepdims=True)
  log_total = jnp.log(total[..., 0])
  log_z = log_total + peak[..., 0]

  in_vocab = (ids >= 0) & (ids < vocab)
  at_target = jnp.sum(jnp.where(hit, shifted, 0), axis=-1)
  cross_entropy = jnp.where(in_vocab, log_total - at_target, 0)
  loss = on_value * cross_entropy
  if smoothing:
    of_all = vocab * log_total - jnp.sum(shifted, axis=-1)
    loss = loss + off_value * (of_all - cross_entropy)
  penalty = setting.z_loss * jnp.square(log_z)
  # The first of the highest, as argmax; a reduction over pairs is slower.
  best = jnp.min(jnp.where(shifted == 0, index, vocab), axis=-1)
  tokens = TokenLosses(
    loss=loss - target_entropy + penalty,
    z_loss=penalty,
    cross_entropy=cross_entropy,
    correct=best == ids,
  )
  slope = (1 + 2 * setting.z_loss * log_z)[..., None] / total
  goal = jnp.where(hit, jnp.float32(on_value), jnp.float32(off_value))
  return tokens, slope * exponentials - goal
