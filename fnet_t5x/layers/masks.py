"""Attention masks: 1 where a query may see a key, 0 where it may not."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Num

from fnet_t5x.fourier.mixing_plan import row_lengths


@struct.dataclass
class LengthMask:
  """A mask for rows with trailing padding only, as an array and as lengths.

  Attributes:
    array: the mask.
    key_lengths: number of keys in each row that its queries may see. Padding
      queries, which see nothing in `array`, are not told apart.
    causal: whether a query sees only keys up to its own position.
  """

  array: Num[Array, 'batch 1 q_length kv_length']
  key_lengths: Int[Array, ' batch']
  causal: bool = struct.field(pytree_node=False)


def lengths_of(tokens: Int[Array, 'batch length']) -> Int[Array, ' batch']:
  """Returns each row's number of positions up to its last non-zero token."""
  return row_lengths(tokens > 0)


def make_attention_mask(
  query_input: Num[Array, '*batch q_length'],
  key_input: Num[Array, '*batch kv_length'],
  pairwise_fn: Callable[[Array, Array], Array] = jnp.multiply,
  extra_batch_dims: int = 0,
  dtype: jnp.dtype = jnp.float32,
) -> Num[Array, '*batch 1 q_length kv_length']:
  """Compares every query position with every key position.

  Args:
    query_input: one number per query position, such as its segment id.
    key_input: one number per key position.
    pairwise_fn: whether a pair may attend; the default, a product, requires
      both to be non-zero.
    extra_batch_dims: number of leading axes of size one to add.
    dtype: of the mask.

  Returns:
    The mask, with a heads axis of size one.
  """
  pairs = pairwise_fn(query_input[..., :, None], key_input[..., None, :])
  pairs = jnp.expand_dims(pairs, -3)
  for _ in range(extra_batch_dims):
    pairs = pairs[None]
  return pairs.astype(dtype)


def make_causal_mask(
  x: Num[Array, '*batch length'],
  extra_batch_dims: int = 0,
  dtype: jnp.dtype = jnp.float32,
) -> Num[Array, '*batch 1 length length']:
  """Lets a query see itself and what precedes it; `x` only gives the shape."""
  order = jnp.broadcast_to(jnp.arange(x.shape[-1], dtype=jnp.int32), x.shape)
  return make_attention_mask(
    order, order, jnp.greater_equal, extra_batch_dims, dtype
  )


def combine_masks(
  *masks: Num[Array, '...'] | None, dtype: jnp.dtype = jnp.float32
) -> Num[Array, '...'] | None:
  """Allows what every mask allows; None means no restriction."""
  present = [mask for mask in masks if mask is not None]
  if not present:
    return None
  return functools.reduce(jnp.logical_and, present).astype(dtype)


def combine_biases(
  *biases: Float[Array, '...'] | None,
) -> Float[Array, '...'] | None:
  """Adds attention biases of equal rank; None means zero."""
  present = [bias for bias in biases if bias is not None]
  return functools.reduce(jnp.add, present) if present else None


def make_decoder_mask(
  decoder_target_tokens: Int[Array, 'batch length'],
  dtype: jnp.dtype,
  decoder_causal_attention: Int[Array, 'batch length'] | None = None,
  decoder_segment_ids: Int[Array, 'batch length'] | None = None,
) -> Num[Array, 'batch 1 length length']:
  """Makes the self-attention mask of a decoder.

  For targets `[5, 6, 7, 0]` whose first two tokens are a prefix
  (`decoder_causal_attention = [1, 1, 0, 0]`), with one row per query:

      1 1 0 0
      1 1 0 0
      1 1 1 0
      0 0 0 0

  Args:
    decoder_target_tokens: the targets; 0 is padding.
    dtype: of the mask.
    decoder_causal_attention: 1 on positions that attend to one another in
      both directions (the prefix of a prefix LM), 0 elsewhere.
    decoder_segment_ids: id of the packed example that each token belongs to.

  Returns:
    The mask.
  """
  visible = make_causal_mask(decoder_target_tokens, dtype=dtype)
  if decoder_causal_attention is not None:
    prefix = make_attention_mask(
      decoder_causal_attention, decoder_causal_attention, dtype=dtype
    )
    visible = jnp.logical_or(visible, prefix)
  real = decoder_target_tokens > 0
  same_segment = None
  if decoder_segment_ids is not None:
    same_segment = make_attention_mask(
      decoder_segment_ids, decoder_segment_ids, jnp.equal
    )
  return combine_masks(
    visible, make_attention_mask(real, real), same_segment, dtype=dtype
  )
