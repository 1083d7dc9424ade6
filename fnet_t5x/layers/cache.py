"""Key/value caches of step-by-step decoding.

Leaves of the 'cache' collection, for a module that attends:

- `cached_key`, `cached_value` [batch, heads, length, kv]: the decoder's own
  past. One position is written a step, in place.
- `cache_index`: the next position to write. A scalar when all rows go
  together, [batch] after a prefill with prompts of several lengths. T5X's beam
  search turns the latter into [batch, beam]; any shape with one number a row
  is kept as it comes.
- `cached_cross_key/cached_bias`, `cached_cross_value/cached_bias`
  [batch, heads, kv, length]: the encoder's output, projected once, by the
  prefill. One row an example, whatever the number of beams: T5X's decoding
  makes, flattens and gathers beams of every leaf but those of this name.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from fnet_t5x.layers.masks import combine_masks

KeyOrValue = Float[Array, 'batch length heads kv']
CachedKeyOrValue = Float[Array, 'batch heads kv length']


def _write_row(cache: Array, update: Array, index: Array) -> Array:
  return jax.lax.dynamic_update_slice_in_dim(cache, update, index, axis=-2)


def write_positions(
  cache: Float[Array, 'batch heads length kv'],
  update: Float[Array, 'batch heads new kv'],
  index: Int[Array, '...'],
) -> Float[Array, 'batch heads length kv']:
  """Writes `update` at `index`, one for all rows or one for each.

  Inside a jitted loop that carries the cache this is in place: it costs
  `new` positions, not `length`. An index past the end writes at the end.
  """
  if index.ndim == 0:
    return _write_row(cache, update, index)
  return jax.vmap(_write_row)(cache, update, index.reshape(-1))


def step_self_attention(
  module: nn.Module,
  key: KeyOrValue,
  value: KeyOrValue,
  mask: Num[Array, 'batch #heads q_length kv_length'] | None,
) -> tuple[KeyOrValue, KeyOrValue, Num[Array, '...'] | None]:
  """Makes the cache in the first call; adds one position in later ones.

  Args:
    module: the attention module, which owns the cache.
    key: keys of the new position; in the first call of as many positions as
      the cache shall hold.
    value: values, likewise.
    mask: further restriction, or None.

  Returns:
    Keys and values of all cached positions, and the mask that hides those not
    yet written; in the first call, the arguments.

  Raises:
    ValueError: when a later call brings more than one position, or another
      batch size.
  """
  if not module.has_variable('cache', 'cached_key'):
    batch, length, heads, kv = key.shape
    empty = jnp.zeros((batch, heads, length, kv), key.dtype)
    module.put_variable('cache', 'cached_key', empty)
    module.put_variable('cache', 'cached_value', empty)
    module.put_variable('cache', 'cache_index', jnp.array(0, jnp.int32))
    return key, value, mask

  index = module.get_variable('cache', 'cache_index')
  cached_key = module.get_variable('cache', 'cached_key')
  batch, heads, length, kv = cached_key.shape
  if key.shape != (batch, 1, heads, kv):
    raise ValueError(
      f'decode step: keys of shape {key.shape} do not fit the cache, which '
      f'takes {(batch, 1, heads, kv)}: feed one token a row, and as many rows '
      'as the cache was made for'
    )
  cached_key = write_positions(cached_key, jnp.swapaxes(key, 1, 2), index)
  cached_value = write_positions(
    module.get_variable('cache', 'cached_value'),
    jnp.swapaxes(value, 1, 2),
    index,
  )
  module.put_variable('cache', 'cached_key', cached_key)
  module.put_variable('cache', 'cached_value', cached_value)
  module.put_variable('cache', 'cache_index', index + 1)
  written = jnp.arange(length)[None, :] <= index.reshape(-1, 1)
  written = jnp.broadcast_to(written, (batch, length))[:, None, None, :]
  return (
    jnp.swapaxes(cached_key, 1, 2),
    jnp.swapaxes(cached_value, 1, 2),
    combine_masks(mask, written),
  )


def prefill_self_attention(
  module: nn.Module,
  key: KeyOrValue,
  value: KeyOrValue,
  prefill_lengths: Int[Array, ' batch'],
) -> None:
  """Writes a prompt into the cache.

  Positions from `prefill_lengths` on may hold anything: no step sees them
  before it has written them.

  Args:
    module: the attention module, which owns the cache.
    key: keys of positions 0, 1, ... of the prompts.
    value: values of the same.
    prefill_lengths: how many of these count, in each row.

  Raises:
    ValueError: when the cache was not made, or is too short.
  """
  if not module.has_variable('cache', 'cached_key'):
    raise ValueError(
      'prefill: there is no cache; make one with decode=True first'
    )
  length = module.get_variable('cache', 'cached_key').shape[-2]
  if key.shape[1] > length:
    raise ValueError(
      f'prefill: {key.shape[1]} prompt positions do not fit into a cache of '
      f'{length}; make the cache with longer decoder inputs'
    )
  start = jnp.array(0, jnp.int32)
  for name, update in (('cached_key', key), ('cached_value', value)):
    cached = module.get_variable('cache', name)
    update = jnp.swapaxes(update, 1, 2)
    module.put_variable('cache', name, write_positions(cached, update, start))
  module.put_variable('cache', 'cache_index', prefill_lengths.astype(jnp.int32))


def store_cross_attention(
  module: nn.Module, key: KeyOrValue, value: KeyOrValue
) -> None:
  """Keeps the projections of the encoder's output for the steps to come."""
  for name, x in (('cached_cross_key', key), ('cached_cross_value', value)):
    # As a step's matrix products read it: no step has to turn it round.
    leaf = jnp.transpose(x, (0, 2, 3, 1))
    module.put_variable('cache', name, {'cached_bias': leaf})


def load_cross_attention(
  module: nn.Module,
) -> tuple[CachedKeyOrValue, CachedKeyOrValue] | None:
  """What `store_cross_attention` kept, or None if it was never called."""
  if not module.has_variable('cache', 'cached_cross_key'):
    return None
  return (
    module.get_variable('cache', 'cached_cross_key')['cached_bias'],
    module.get_variable('cache', 'cached_cross_value')['cached_bias'],
  )
