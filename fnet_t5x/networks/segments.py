"""Segment ids and positions of packed examples."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from fnet_t5x.networks.t5_config import Tokens


def positions_of_segments(
  segment_ids: Int[Array, 'batch length'],
) -> Int[Array, 'batch length']:
  """Counts from 0 in each run of equal ids: [1 1 1 2 2 0] -> [0 1 2 0 1 0]."""
  index = jnp.arange(segment_ids.shape[-1], dtype=jnp.int32)[None, :]
  before = jnp.pad(segment_ids[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
  starts = jnp.where(segment_ids != before, index, 0)
  return index - jax.lax.cummax(starts, axis=1)


def real_segment_ids(
  tokens: Tokens, segment_ids: Tokens | None
) -> Int[Array, 'batch length']:
  """Returns the id of the example that each token belongs to; 0 on padding."""
  real = tokens > 0
  if segment_ids is None:
    return real.astype(jnp.int32)
  return jnp.where(real, segment_ids, 0).astype(jnp.int32)


def segments_and_positions(
  tokens: Tokens, segment_ids: Tokens | None, positions: Tokens | None
) -> tuple[Int[Array, 'batch length'], Int[Array, 'batch length'] | None]:
  """Returns each token's example, and its position if rows are packed."""
  packed = segment_ids is not None
  segment_ids = real_segment_ids(tokens, segment_ids)
  if not packed:
    return segment_ids, None
  if positions is None:
    return segment_ids, positions_of_segments(segment_ids)
  return segment_ids, positions.astype(jnp.int32)
