"""Key/value caches for autoregressive decoding.

An attention module stores these leaves in the 'cache' collection:

- `cached_key`, `cached_value` [batch, heads, length, kv]: keys and values of
  the decoder's past tokens. Each step writes one position, in place.
- `cache_index`: the next position to write. A scalar if all rows advance
  together, [batch] after a prefill with prompts of different lengths. T5X's
  beam search reshapes the latter to [batch, beam]; any shape with one index
  per row is preserved.
- `cached_cross_key/cached_bias`, `cached_cross_value/cached_bias`
  [batch, heads, kv, length]: the encoder's output, projected once by the
  prefill. One row per example, whatever the number of beams: T5X's decoding
  expands, flattens and gathers the beams of every leaf except `cached_bias`.
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
  """Writes `update` at `index`, a scalar or one index per row.

  In place inside a jitted loop that carries the cache: the cost is
  proportional to `new`, not to `length`. Like `dynamic_update_slice`, it
  clamps an index past the end.
  """
  if index.ndim == 0:
    return _write_row(cache, update, index)
  return jax.vmap(_write_row)(cache, update, index.reshape(-1))


def step_self_attention(
  module: nn.Module,
  key: KeyOrValue,
  value: KeyOrValue,
  mask: Num[Array, 'batch #heads q_length kv_length'] | None,  # noqa: F821
) -> tuple[KeyOrValue, KeyOrValue, Num[Array, '...'] | None]:
  """Creates the cache on the first call, and appends one token on later ones.

  Args:
    module: the attention module, which owns the cache.
    key: key of the new token. On the first call its length sets the cache's.
    value: value of the new token, of the same shape as `key`.
    mask: further restriction, or None.

  Returns:
    Keys and values of all cached positions, and the mask that hides those not
    yet written; on the first call, the arguments unchanged.

  Raises:
    ValueError: if a later call has more than one token per row, or another
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
      f'takes {(batch, 1, heads, kv)}: feed one token per row, and as many '
      'rows as the cache was created for'
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

  Positions from `prefill_lengths` on may hold anything: each is overwritten
  before any step can see it.

  Args:
    module: the attention module, which owns the cache.
    key: keys of positions 0, 1, ... of the prompts.
    value: values of the same positions.
    prefill_lengths: number of valid positions in each row.

  Raises:
    ValueError: if there is no cache, or it is too short.
  """
  if not module.has_variable('cache', 'cached_key'):
    raise ValueError(
      'prefill: there is no cache; create one with decode=True first'
    )
  length = module.get_variable('cache', 'cached_key').shape[-2]
  if key.shape[1] > length:
    raise ValueError(
      f'prefill: prompts of {key.shape[1]} tokens do not fit into a cache of '
      f'{length}; create the cache with longer decoder inputs'
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
  """Caches the projections of the encoder's output for later steps."""
  for name, x in (('cached_cross_key', key), ('cached_cross_value', value)):
    # The layout that a step's matrix products read: no transpose per step.
    leaf = jnp.transpose(x, (0, 2, 3, 1))
    module.put_variable('cache', name, {'cached_bias': leaf})


def load_cross_attention(
  module: nn.Module,
) -> tuple[CachedKeyOrValue, CachedKeyOrValue] | None:
  """Returns what `store_cross_attention` cached, or None."""
  if not module.has_variable('cache', 'cached_cross_key'):
    return None
  return (
    module.get_variable('cache', 'cached_cross_key')['cached_bias'],
    module.get_variable('cache', 'cached_cross_value')['cached_bias'],
  )
