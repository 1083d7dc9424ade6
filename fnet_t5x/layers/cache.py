"""Caches for autoregressive decoding.

A module that mixes tokens stores these leaves in the 'cache' collection:

- `cached_key`, `cached_value` [batch, heads, length, kv]: keys and values of
  the decoder's past tokens. Each step writes one position, in place. Of causal
  mixings in their place `cached_inputs` [batch, length, embed] (Fourier) or
  `cached_value` alone (Toeplitz).
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
  cache: Float[Array, 'batch *heads length features'],
  update: Float[Array, 'batch *heads new features'],
  index: Int[Array, '...'],
) -> Float[Array, 'batch *heads length features']:
  """Writes `update` at `index`, a scalar or one index per row.

  In place inside a jitted loop that carries the cache: the cost is
  proportional to `new`, not to `length`. Like `dynamic_update_slice`, it
  clamps an index past the end.
  """
  if index.ndim == 0:
    return _write_row(cache, update, index)
  return jax.vmap(_write_row)(cache, update, index.reshape(-1))


def append_token(
  module: nn.Module, **tokens: Float[Array, 'batch *heads new features']
) -> tuple[dict[str, Array], Int[Array, '...']] | None:
  """Creates leaves on the first call, and appends one token on later ones.

  Args:
    module: the module that owns the cache.
    **tokens: what to append, by the name of its leaf. On the first call, zeros
      of the same shape become the leaf.

  Returns:
    The leaves with the token, and its position: a scalar, or any shape with one
    per row. None on the first call.

  Raises:
    ValueError: if a later call has more than one token per row, or another
      batch size.
  """
  if not module.has_variable('cache', 'cache_index'):
    for name, token in tokens.items():
      module.put_variable('cache', name, jnp.zeros_like(token))
    module.put_variable('cache', 'cache_index', jnp.array(0, jnp.int32))
    return None
  index = module.get_variable('cache', 'cache_index')
  leaves = {}
  for name, token in tokens.items():
    cached = module.get_variable('cache', name)
    one = (*cached.shape[:-2], 1, cached.shape[-1])
    if token.shape != one:
      raise ValueError(
        f'decode step: {name} takes {one}, not {token.shape}: feed one token '
        'per row, and as many rows as the cache was created for'
      )
    leaves[name] = write_positions(cached, token, index)
    module.put_variable('cache', name, leaves[name])
  module.put_variable('cache', 'cache_index', index + 1)
  return leaves, index


def write_prompts(
  module: nn.Module,
  prefill_lengths: Int[Array, ' batch'],
  **tokens: Float[Array, 'batch *heads new features'],
) -> None:
  """Writes prompts into the leaves of `append_token`.

  Positions from `prefill_lengths` on may hold anything: each is overwritten
  before any step can see it.

  Args:
    module: the module that owns the cache.
    prefill_lengths: number of valid positions in each row.
    **tokens: what to write to positions 0, 1, ..., by leaf.

  Raises:
    ValueError: if there is no cache, or it is too short.
  """
  start = jnp.array(0, jnp.int32)
  for name, token in tokens.items():
    if not module.has_variable('cache', name):
      raise ValueError(
        'prefill: there is no cache; create one with decode=True first'
      )
    cached = module.get_variable('cache', name)
    if token.shape[-2] > cached.shape[-2]:
      raise ValueError(
        f'prefill: prompts of {token.shape[-2]} tokens do not fit into a cache '
        f'of {cached.shape[-2]}; create the cache with longer decoder inputs'
      )
    module.put_variable('cache', name, write_positions(cached, token, start))
  module.put_variable('cache', 'cache_index', prefill_lengths.astype(jnp.int32))


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
    ValueError: as `append_token`.
  """
  appended = append_token(
    module,
    cached_key=jnp.swapaxes(key, 1, 2),
    cached_value=jnp.swapaxes(value, 1, 2),
  )
  if appended is None:
    return key, value, mask
  leaves, index = appended
  cached_key, cached_value = leaves['cached_key'], leaves['cached_value']
  batch, _, length, _ = cached_key.shape
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
  """Writes a prompt into the cache; see `write_prompts`.

  Args:
    module: the attention module, which owns the cache.
    key: keys of positions 0, 1, ... of the prompts.
    value: values of the same positions.
    prefill_lengths: number of valid positions in each row.
  """
  write_prompts(
    module,
    prefill_lengths,
    cached_key=jnp.swapaxes(key, 1, 2),
    cached_value=jnp.swapaxes(value, 1, 2),
  )


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
