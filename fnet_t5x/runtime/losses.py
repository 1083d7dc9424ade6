"""Cross-entropy for training and scoring, and its normalisation.

Logits are [batch, length, vocab], by far the largest array of a training step,
and a loss computed from them needs several arrays of that size.
`output_cross_entropy` fuses the output layer with the loss, in chunks along
length. Since the loss is a scalar, its gradients with respect to the logits of
a chunk are known as soon as the logits are: the forward pass turns them into
gradients of the activations and of the kernel, and discards the logits. No
matrix product is computed twice, and the residuals for the backward pass have
the size of the activations and of the kernel.
"""

import enum
import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.partitioning import logical_to_mesh_axes
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from fnet_t5x.fourier import data_parallel

# Keeps the entropy of the smoothed targets finite where their floor is 0.
_LOG_FLOOR = 1e-20
# Size of the logits of a chunk per device. Large enough for matrix products at
# full speed, and for the cost of the kernel's gradient, which is read and
# written once per chunk, to be small.
CHUNK_BYTES = 64 * 2**20
# Rows that chunks are chosen for where their number is symbolic (`jax.export`).
_SYMBOLIC_ROWS = 32


def _log_softmax(logits):
  """Returns log-probabilities, exponentials, their sums, and log Z.

  The exponentials are of `logits - max(logits)`. The sums have a vocab axis of
  size 1, log Z has none.
  """
  peak = jnp.max(logits, axis=-1, keepdims=True)
  shifted = logits - peak
  exponentials = jnp.exp(shifted)
  total = jnp.sum(exponentials, axis=-1, keepdims=True)
  log_z = jnp.squeeze(jnp.log(total) + peak, axis=-1)
  return shifted - jnp.log(total), exponentials, total, log_z


def _logit_gradient(logits, targets, z_loss, loss_gradient):
  """d loss / d logits = (1 + 2 z_loss log Z) softmax(logits) - targets.

  For targets that sum to 1. The softmax is recomputed rather than kept from the
  forward pass: the logits are the only [..., vocab] array alive between the two
  passes.
  """
  _, exponentials, total, log_z = _log_softmax(logits)
  slope = jnp.expand_dims(1 + 2 * z_loss * log_z, -1)
  gradient = slope * exponentials / total - targets
  gradient = jnp.expand_dims(loss_gradient, -1) * gradient
  return gradient.astype(logits.dtype)


def _smoothed(target_ids, logits, on_value, off_value):
  """Returns the target distributions, as an expression that XLA fuses."""
  vocab = jax.lax.broadcasted_iota(
    jnp.int32, logits.shape, dimension=logits.ndim - 1
  )
  hit = vocab == jnp.expand_dims(target_ids, -1)
  return jnp.where(hit, jnp.float32(on_value), jnp.float32(off_value))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def cross_entropy_with_ids(
  logits: Float[Array, '*batch vocab'],
  target_ids: Int[Array, '*batch'],
  z_loss: float = 0.0,
  on_value: float = 1.0,
  off_value: float = 0.0,
) -> tuple[Float[Array, '*batch'], Float[Array, '*batch']]:
  """Computes the cross-entropy of token ids, with a finite gradient.

  loss = -sum_v t_v log softmax(logits)_v + z_loss (log Z)^2, where t is
  on_value at the id and off_value elsewhere, and Z is the softmax's normaliser.
  The second term (first in Mesh TensorFlow; PaLM, arXiv 2204.02311, section 5)
  keeps the logits close to log-probabilities, which bfloat16 needs. No target
  array is materialized: ids are compared with an iota inside the reductions, in
  both passes. An id outside the vocabulary matches nothing, as with
  `jax.nn.one_hot`.

  Args:
    logits: unnormalised log-probabilities.
    target_ids: one token id per position.
    z_loss: weight of (log Z)^2; its own gradient is 0.
    on_value: probability of the target id.
    off_value: probability of every other id.

  Returns:
    The loss in nats per token, and the part of it due to z_loss. The second is
    for reporting only: no gradients flow through it.
  """
  targets = _smoothed(target_ids, logits, on_value, off_value)
  log_probs, _, _, log_z = _log_softmax(logits)
  weighted_log_z = z_loss * jnp.square(log_z)
  loss = -jnp.sum(targets * log_probs, axis=-1) + weighted_log_z
  return loss, weighted_log_z


def _ids_fwd(logits, target_ids, z_loss, on_value, off_value):
  outputs = cross_entropy_with_ids(
    logits, target_ids, z_loss, on_value, off_value
  )
  return outputs, (logits, target_ids, z_loss)


def _ids_bwd(on_value, off_value, residuals, gradients):
  logits, target_ids, z_loss = residuals
  targets = _smoothed(target_ids, logits, on_value, off_value)
  return (
    _logit_gradient(logits, targets, z_loss, gradients[0]),
    None,
    jnp.zeros_like(z_loss, jnp.float32),
  )


cross_entropy_with_ids.defvjp(_ids_fwd, _ids_bwd)


def smoothed_targets(
  label_smoothing: float, vocab: int
) -> tuple[float, float, float]:
  """Returns the target's probability, every other id's, and the entropy."""
  others = vocab - 1
  on_value = 1.0 - label_smoothing
  off_value = label_smoothing / max(others, 1)
  target_entropy = -(
    on_value * np.log(on_value)
    + others * off_value * np.log(off_value + _LOG_FLOOR)
  )
  return on_value, off_value, target_entropy


def compute_weighted_cross_entropy(
  logits: Float[Array, 'batch length vocab'],
  targets: Int[Array, 'batch length'],
  weights: Float[Array, 'batch length'] | None = None,
  label_smoothing: float = 0.0,
  z_loss: float = 0.0,
  loss_normalizing_factor: float | None = None,
) -> tuple[Float[Array, ''], Float[Array, ''], Float[Array, '']]:
  """Sums the cross-entropy of a batch of token ids.

  With label smoothing s, the target has probability 1 - s and every other id
  s / (vocab - 1); the entropy of that distribution is subtracted, so that a
  perfect model scores 0.

  Args:
    logits: unnormalised log-probabilities.
    targets: token ids.
    weights: weight per token; None for 1.
    label_smoothing: s above, in [0, 1).
    z_loss: weight of (log Z)^2.
    loss_normalizing_factor: divisor of both sums; None for 1.

  Returns:
    Scalars: the loss in nats, the part due to z_loss, the sum of the weights.

  Raises:
    ValueError: logits do not have exactly one axis more than targets.
  """
  if logits.ndim != targets.ndim + 1:
    raise ValueError(
      f'logits of shape {logits.shape} do not fit targets of shape'
      f' {targets.shape}: expected one more axis, the vocabulary'
    )
  on_value, off_value, target_entropy = smoothed_targets(
    label_smoothing, logits.shape[-1]
  )
  loss, z_loss_part = cross_entropy_with_ids(
    logits, targets, jnp.asarray(z_loss, jnp.float32), on_value, off_value
  )
  loss = loss - target_entropy

  if weights is None:
    weight_sum = np.prod(targets.shape)
  else:
    loss = loss * weights
    z_loss_part = z_loss_part * weights
    weight_sum = jnp.sum(weights)
  if loss_normalizing_factor is not None:
    loss = loss / loss_normalizing_factor
    z_loss_part = z_loss_part / loss_normalizing_factor
  return jnp.sum(loss), jnp.sum(z_loss_part), weight_sum


@enum.unique
class SpecialLossNormalizingFactor(enum.Enum):
  """Normalisers that depend on the batch.

  Attributes:
    NUM_REAL_TARGET_TOKENS: the sum of the loss weights, or the number of
      non-padding targets where the batch has no weights.
    NUM_TOTAL_TARGET_TOKENS: batch * length, padding included.
    AVERAGE_PER_SEQUENCE: the mean over examples of each example's own mean, so
      that a short example counts as much as a long one.
  """

  NUM_REAL_TARGET_TOKENS = 1
  NUM_TOTAL_TARGET_TOKENS = 2
  AVERAGE_PER_SEQUENCE = 3


def convert_special_loss_normalizing_factor_to_enum(
  x: str,
) -> SpecialLossNormalizingFactor:
  """Returns the normaliser named `x`, in any case; ValueError if unknown."""
  try:
    return SpecialLossNormalizingFactor[x.upper()]
  except KeyError:
    names = ', '.join(factor.name for factor in SpecialLossNormalizingFactor)
    raise ValueError(
      f'unknown loss_normalizing_factor {x!r}: use a number, None, or one of'
      f' {names}'
    ) from None


def _sum_weights_per_segment(
  positions: Int[Array, 'batch length'],
  segment_ids: Int[Array, 'batch length'],
  weights: Float[Array, 'batch length'],
) -> Float[Array, 'batch length']:
  """Returns for each token the sum of the weights of its packed example.

  An example starts at position 0 (segment ids may repeat within a row); padding
  (id 0) gets 0.
  """

  def one_row(positions, segment_ids, weights):
    length = weights.shape[0]
    real = segment_ids != 0
    # Numbers the row's examples from 0; padding goes to a spare last bin.
    example = jnp.where(real, jnp.cumsum(positions == 0) - 1, length)
    sums = jax.ops.segment_sum(weights, example, num_segments=length + 1)
    return jnp.where(real, sums[example], 0)

  return jax.vmap(one_row)(positions, segment_ids, weights)


def get_loss_normalizing_factor_and_weights(
  loss_normalizing_factor: (
    float | int | str | SpecialLossNormalizingFactor | None
  ),
  batch: Mapping[str, Array],
) -> tuple[float | Array | None, Float[Array, 'batch length'] | None]:
  """Resolves a normaliser for a batch.

  Args:
    loss_normalizing_factor: None, a number, a `SpecialLossNormalizingFactor` or
      the name of one.
    batch: features; `decoder_target_tokens`, optionally `decoder_loss_weights`,
      and for packed batches `decoder_segment_ids` and `decoder_positions`.

  Returns:
    The divisor, and the weight per token. For None or a number both are
    returned as given (weights None where the batch has none); otherwise weights
    default to 1 where the target is not padding.

  Raises:
    ValueError: the name is unknown.
  """
  weights = batch.get('decoder_loss_weights')
  if isinstance(loss_normalizing_factor, str):
    loss_normalizing_factor = convert_special_loss_normalizing_factor_to_enum(
      loss_normalizing_factor
    )
  if not isinstance(loss_normalizing_factor, SpecialLossNormalizingFactor):
    return loss_normalizing_factor, weights

  targets = batch['decoder_target_tokens']
  if weights is None:
    weights = jnp.asarray(targets > 0, jnp.float32)
  if (
    loss_normalizing_factor
    is SpecialLossNormalizingFactor.NUM_TOTAL_TARGET_TOKENS
  ):
    return np.prod(targets.shape), weights
  if loss_normalizing_factor is (
    SpecialLossNormalizingFactor.AVERAGE_PER_SEQUENCE
  ):
    if 'decoder_segment_ids' in batch:
      sums = _sum_weights_per_segment(
        batch['decoder_positions'], batch['decoder_segment_ids'], weights
      )
    else:
      sums = jnp.sum(weights, axis=-1, keepdims=True)
    # An example of weight 0 contributes nothing: avoid the division by 0.
    weights = jnp.nan_to_num(weights / sums, nan=0, posinf=0, neginf=0)
  return jnp.sum(weights), weights


class TokenLosses(NamedTuple):
  """Loss and accuracy per token; no gradients flow through them.

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
  """Static arguments of `output_cross_entropy`."""

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

  Equals `compute_weighted_cross_entropy` of these logits, in value and in
  gradients.

  Args:
    hidden: inputs of the output layer.
    kernel: the output layer. The product is in float32.
    targets: token ids; one outside the vocabulary matches nothing.
    weights: weight per token; None for 1.
    label_smoothing: as in `compute_weighted_cross_entropy`.
    z_loss: weight of (log Z)^2.
    chunk_bytes: maximum size of the logits that a device holds at a time.

  Returns:
    The weighted sum in nats, and its terms per token.
  """
  if weights is None:
    weights = jnp.ones(targets.shape, jnp.float32)
  axes, groups = _row_groups(targets.shape[0])
  setting = _Setting(label_smoothing, z_loss, chunk_bytes, axes)
  # One group of rows per device along the batch: each device sums gradients of
  # the kernel over its own rows, followed by a single all-reduce. A sum over
  # the whole batch would need an all-reduce per chunk.
  total, tokens = _weighted_sum(
    _grouped(hidden.astype(jnp.float32), groups),
    kernel.astype(jnp.float32),
    _grouped(targets, groups),
    _grouped(weights.astype(jnp.float32), groups),
    setting,
  )
  return total, jax.tree.map(lambda x: x.reshape(targets.shape), tokens)


def _row_groups(batch: int) -> tuple[tuple[str, ...], int]:
  """Returns the mesh axes a batch is sharded over, and the number of shards."""
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
  """Returns the weighted sum, `TokenLosses`, and gradients.

  Gradients are with respect to hidden and kernel. Arrays are [group, row,
  length, ...].
  """
  rows, length = targets.shape[1:]
  embed, vocab = kernel.shape
  known = rows if isinstance(rows, int) else _SYMBOLIC_ROWS
  columns = max(1, setting.chunk_bytes // (4 * vocab * known))
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
  """Shards groups over the mesh axes of the batch; the rest is up to XLA."""
  if not setting.axes:
    return x
  rest = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
  return jax.lax.with_sharding_constraint(x, PartitionSpec(setting.axes, *rest))


def _joined(x):
  """[chunk, group, row, column, ...] -> [group, row, length, ...]."""
  x = jnp.moveaxis(x, 0, 2)
  return x.reshape(*x.shape[:2], -1, *x.shape[4:])


def _token_losses(logits, ids, setting):
  """Returns the `TokenLosses` of a chunk, and d loss / d logits.

  Uses only elementwise operations and plain reductions over the vocabulary: if
  it is sharded, devices exchange only a few numbers per token.
  """
  vocab = logits.shape[-1]
  smoothing = setting.label_smoothing
  on_value, off_value, target_entropy = smoothed_targets(smoothing, vocab)
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
  # First maximum, as argmax, whose reduction over pairs is slower.
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
