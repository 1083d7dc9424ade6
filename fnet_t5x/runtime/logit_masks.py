"""Top-k and top-p: which tokens sampling may still choose."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

_FLOAT32_SIGN_FREE = jnp.int32(0x7FFFFFFF)


def topk_mask(
  logits: Float[Array, '*batch vocab'],
  k: int | Int[Array, ''],
  replace_val: float,
) -> Float[Array, '*batch vocab']:
  """Replaces all logits below the k-th largest of their row.

  Args:
    logits: unnormalised log-probabilities.
    k: how many to keep; more are kept where they tie with the k-th. It may be
      traced, at 32 passes over the vocabulary instead of one.
    replace_val: what the others become.

  Returns:
    The masked logits.
  """
  if isinstance(k, jax.core.Tracer):

    def fewer_than_k_above(threshold):
      return jnp.sum(logits > threshold, axis=-1, keepdims=True) < k

    # The k-th largest is the least number with fewer than k above it.
    cutoff = -_largest_where(
      (*logits.shape[:-1], 1), lambda x: fewer_than_k_above(-x)
    )
  else:
    cutoff = lax.top_k(logits, min(int(k), logits.shape[-1]))[0][..., -1:]
  # Minus infinity is never worth keeping, even if k asks for more.
  lowest = jnp.finfo(jnp.float32).min
  keep = logits >= jnp.maximum(cutoff, lowest)
  return jnp.where(keep, logits, jnp.asarray(replace_val, logits.dtype))


def topp_mask(
  logits: Float[Array, '*batch vocab'],
  p: float | Float[Array, ''],
  replace_val: float,
) -> Float[Array, '*batch vocab']:
  """Keeps the likeliest tokens that together have probability p or more.

  Nucleus sampling, Holtzman et al. 2019, arXiv 1904.09751. The least
  probability to keep is found by bisection, 32 passes over the vocabulary,
  which on accelerators beats a sort; tokens that tie with it are all kept.

  Args:
    logits: unnormalised log-probabilities.
    p: probability to cover; 0 keeps all.
    replace_val: what the other logits become.

  Returns:
    The masked logits.
  """
  probs = jax.nn.softmax(logits, axis=-1)

  def covers_p(threshold):
    kept = jnp.where(probs >= threshold, probs, 0.0)
    # p > 0, because no threshold fails to cover nothing.
    return (jnp.sum(kept, axis=-1, keepdims=True) >= p) & (p > 0)

  threshold = _largest_where((*logits.shape[:-1], 1), covers_p)
  return jnp.where(
    probs >= threshold, logits, jnp.asarray(replace_val, logits.dtype)
  )


def _largest_where(
  shape: tuple[int, ...],
  holds: Callable[[Float[Array, '...']], Bool[Array, '...']],
) -> Float[Array, '...']:
  """The largest finite float32 for which a predicate holds, elementwise.

  Finite float32 numbers are in the order of their bit patterns, once those of
  negative numbers are flipped: bisection needs one step a bit.

  Args:
    shape: of the numbers looked for.
    holds: true up to some number, false above it.

  Returns:
    The last number where `holds` is true, exactly; the lowest float32 where it
    never is.
  """
  limits = jnp.finfo(jnp.float32)

  def to_float(ordered):
    bits = jnp.where(ordered < 0, ordered ^ _FLOAT32_SIGN_FREE, ordered)
    return lax.bitcast_convert_type(bits, jnp.float32)

  def to_ordered(number):
    bits = lax.bitcast_convert_type(jnp.float32(number), jnp.int32)
    return jnp.where(bits < 0, bits ^ _FLOAT32_SIGN_FREE, bits)

  def narrow(_, bounds):
    low, high = bounds
    # Rounded up, and without the overflow of (low + high + 1) / 2.
    middle = (low >> 1) + (high >> 1) + ((low | high) & 1)
    true = holds(to_float(middle))
    return jnp.where(true, middle, low), jnp.where(true, high, middle - 1)

  low = jnp.full(shape, to_ordered(limits.min))
  high = jnp.full(shape, to_ordered(limits.max))
  low, _ = lax.fori_loop(0, 32, narrow, (low, high))
  return to_float(low)
