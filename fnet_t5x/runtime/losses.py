"""Cross-entropy for training and scoring, and what it is divided by."""

import enum
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Keeps the entropy of the smoothed targets finite where their floor is 0.
_LOG_FLOOR = 1e-20


def _log_softmax(logits):
  """Returns log-probabilities, exponentials, their sums, and log Z.

  The exponentials are of `logits - max(logits)`; sums and log Z keep no vocab
  axis of their own beyond a trailing 1 for the sums.
  """
  peak = jnp.max(logits, axis=-1, keepdims=True)
  shifted = logits - peak
  exponentials = jnp.exp(shifted)
  total = jnp.sum(exponentials, axis=-1, keepdims=True)
  log_z = jnp.squeeze(jnp.log(total) + peak, axis=-1)
  return shifted - jnp.log(total), exponentials, total, log_z


def _forward(logits, targets, z_loss):
  log_probs, _, _, log_z = _log_softmax(logits)
  weighted_log_z = z_loss * jnp.square(log_z)
  loss = -jnp.sum(targets * log_probs, axis=-1) + weighted_log_z
  return loss, weighted_log_z


def _logit_gradient(logits, targets, z_loss, loss_gradient):
  """d loss / d logits = (1 + 2 z_loss log Z) softmax(logits) - targets.

  For targets that sum to 1. The softmax is computed again rather than kept
  from the forward pass: the only [..., vocab] array alive between the two
  passes is the logits.
  """
  _, exponentials, total, log_z = _log_softmax(logits)
  slope = jnp.expand_dims(1 + 2 * z_loss * log_z, -1)
  gradient = slope * exponentials / total - targets
  gradient = jnp.expand_dims(loss_gradient, -1) * gradient
  return gradient.astype(logits.dtype)


@jax.custom_vjp
def cross_entropy_with_logits(
  logits: Float[Array, '*batch vocab'],
  targets: Float[Array, '*batch vocab'],
  z_loss: float,
) -> tuple[Float[Array, '*batch'], Float[Array, '*batch']]:
  """Cross-entropy against distributions, with a gradient that stays finite.

  loss = -sum_v targets_v log softmax(logits)_v + z_loss (log Z)^2, where Z is
  the softmax's normaliser. The second term (first in Mesh TensorFlow; PaLM,
  arXiv 2204.02311, section 5) keeps the logits near log-probabilities, which
  bfloat16 needs.

  Args:
    logits: unnormalised log-probabilities.
    targets: distributions over the vocabulary, each summing to 1.
    z_loss: weight of (log Z)^2; its own gradient is 0.

  Returns:
    The loss in nats per position, and the part of it due to z_loss. The second
    is for reports: gradients flow through the first only.
  """
  return _forward(logits, targets, z_loss)


def _cross_entropy_fwd(logits, targets, z_loss):
  return _forward(logits, targets, z_loss), (logits, targets, z_loss)


def _cross_entropy_bwd(residuals, gradients):
  logits, targets, z_loss = residuals
  loss_gradient = gradients[0]
  log_probs = _log_softmax(logits)[0]
  target_gradient = -jnp.expand_dims(loss_gradient, -1) * log_probs
  return (
    _logit_gradient(logits, targets, z_loss, loss_gradient),
    target_gradient.astype(targets.dtype),
    jnp.zeros_like(z_loss, jnp.float32),
  )


cross_entropy_with_logits.defvjp(_cross_entropy_fwd, _cross_entropy_bwd)


def _smoothed(target_ids, logits, on_value, off_value):
  """The target distributions, as an expression that XLA fuses away."""
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
  """`cross_entropy_with_logits` for token ids: same values, less memory.

  Equal to `cross_entropy_with_logits(logits, t, z_loss)` with t = on_value at
  the id and off_value elsewhere, but no array of targets is stored: they are
  compared with an iota inside the reductions, in both passes. An id outside
  the vocabulary hits nothing, as with `jax.nn.one_hot`.

  Args:
    logits: unnormalised log-probabilities.
    target_ids: one token id a position.
    z_loss: weight of (log Z)^2.
    on_value: probability of the target id.
    off_value: probability of every other id.

  Returns:
    The loss in nats per position, and the part of it due to z_loss.
  """
  targets = _smoothed(target_ids, logits, on_value, off_value)
  return _forward(logits, targets, z_loss)


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
  """Probability of the target, of every other id, and the entropy of all."""
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
  s / (vocab - 1); the entropy of that distribution is taken off, so that a
  perfect model scores 0.

  Args:
    logits: unnormalised log-probabilities.
    targets: token ids.
    weights: weight of each position; None weighs all of them 1.
    label_smoothing: s above, in [0, 1).
    z_loss: weight of (log Z)^2.
    loss_normalizing_factor: what both sums are divided by; None for 1.

  Returns:
    Scalars: the loss in nats, the part due to z_loss, the sum of the weights.

  Raises:
    ValueError: if logits do not have one axis more than targets.
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
  """The normaliser named `x` in any case; ValueError if there is none."""
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
  """Gives each position the sum of the weights of its packed example.

  An example starts where its position is 0 (ids may repeat in a row);
  padding, id 0, gets 0.
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
    loss_normalizing_factor: None, a number, or one of
      `SpecialLossNormalizingFactor` or its name.
    batch: features; `decoder_loss_weights` where it has them,
      `decoder_target_tokens`, and for packed batches `decoder_segment_ids` and
      `decoder_positions`.

  Returns:
    The number to divide by, and the weights per position. With None or a
    number both are what the batch holds; otherwise weights are always made,
    1 where the target is not padding.

  Raises:
    ValueError: if the name is unknown.
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
    # An example of weight 0 has no say, and must not divide by it.
    weights = jnp.nan_to_num(weights / sums, nan=0, posinf=0, neginf=0)
  return jnp.sum(weights), weights
