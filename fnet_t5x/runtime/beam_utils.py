"""Arrays of beams: adding, flattening, gathering and ranking them.

A cache is a nested mapping of arrays whose batch axis is 0, or `offset` where
layers are scanned. In the decoding loops every batch axis becomes [batch,
beam], or [batch * beam] with an example's beams side by side.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.core
import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

# Stands for minus infinity; finite, so that differences stay numbers.
NEG_INF_VALUE = -1.0e7
NEG_INF = np.array(NEG_INF_VALUE)

# Leaves that know nothing of beams (T5X's names): those without a batch axis,
# and our cross-attention's, one row an example.
_WITHOUT_BEAMS = ('cached_bias', 'position_embedder_index')

Cache = Mapping[str, Any]


@flax.struct.dataclass
class DecodingState:
  """What a network sees of the decoding loop.

  Rows are beams or samples, those of one example side by side.

  Attributes:
    cur_index: position of `cur_token`: [rows], or a scalar common to all rows.
    sequences: [rows, length] tokens so far.
    cur_token: [rows, 1] tokens to feed.
    cache: the network's cache.
  """

  cur_index: jax.Array
  sequences: jax.Array
  cur_token: jax.Array
  cache: Cache


def cache_map(
  fn: Callable[[Array], Array], cache: Cache, apply_to_index: bool = False
) -> Cache:
  """Applies `fn` to the leaves of a cache that follow the beams.

  Args:
    fn: function of one leaf.
    cache: nested mapping; a FrozenDict stays one.
    apply_to_index: whether leaves named `cache_index` have a batch axis, as
      they do once prompts of different lengths were prefilled.

  Returns:
    The cache with the other leaves as they were.
  """
  skipped = _WITHOUT_BEAMS
  if not apply_to_index:
    skipped = (*skipped, 'cache_index')
  frozen = isinstance(cache, flax.core.FrozenDict)
  flat = flax.traverse_util.flatten_dict(
    flax.core.unfreeze(cache) if frozen else cache, keep_empty_nodes=True
  )
  empty = flax.traverse_util.empty_node
  mapped = flax.traverse_util.unflatten_dict(
    {
      path: leaf if leaf is empty or path[-1] in skipped else fn(leaf)
      for path, leaf in flat.items()
    }
  )
  return flax.core.freeze(mapped) if frozen else mapped


def set_positions(cache: Cache, positions: Int[Array, ' batch']) -> Cache:
  """Tells a decoder that counts positions itself where each row goes on.

  Such a decoder's embedder keeps its count in the cache under T5X's name, and
  a prefill, which is one call, moves it by one. A cache without it is returned
  as it is.

  Args:
    cache: of the network.
    positions: of the next tokens to feed.
  """
  decoder = cache.get('decoder', {})
  embedder = decoder.get('position_embedder', {})
  if 'position_embedder_index' not in embedder:
    return cache
  embedder = {**embedder, 'position_embedder_index': positions}
  return {**cache, 'decoder': {**decoder, 'position_embedder': embedder}}


def add_beam_dim(x: Array, beam_size: int, offset: int = 0) -> Array:
  """[batch, ...] -> [batch, beam, ...], every beam a copy."""
  shape = list(x.shape)
  shape.insert(offset + 1, beam_size)
  return jnp.broadcast_to(jnp.expand_dims(x, offset + 1), shape)


def flatten_beam_dim(x: Array, offset: int = 0) -> Array:
  """[batch, beam, ...] -> [batch * beam, ...]."""
  batch, beam = x.shape[offset : offset + 2]
  return x.reshape(*x.shape[:offset], batch * beam, *x.shape[offset + 2 :])


def unflatten_beam_dim(
  x: Array, batch_size: int, beam_size: int, offset: int = 0
) -> Array:
  """[batch * beam, ...] -> [batch, beam, ...]."""
  return x.reshape(
    *x.shape[:offset], batch_size, beam_size, *x.shape[offset + 1 :]
  )


def flat_batch_beam_expand(x: Array, beam_size: int, offset: int = 0) -> Array:
  """[batch, ...] -> [batch * beam, ...], an example's copies side by side."""
  return flatten_beam_dim(add_beam_dim(x, beam_size, offset), offset)


def gather_beams(
  nested: PyTree,
  beam_indices: Int[Array, 'batch new_beam'],
  batch_size: int,
  old_beam_size: int,
  new_beam_size: int,
  one_hot: bool = False,
) -> PyTree:
  """Picks beams: [batch, old_beam, ...] -> [batch, new_beam, ...].

  Args:
    nested: tree of arrays.
    beam_indices: the old beam that each new one continues.
    batch_size: batch.
    old_beam_size: old_beam.
    new_beam_size: new_beam.
    one_hot: whether to pick by a product with one-hot rows, beam times the
      work, for compilers that cannot partition a batched gather.

  Returns:
    The tree of new beams, dtypes kept.
  """
  del batch_size, new_beam_size
  return jax.tree.map(
    lambda x: _pick(x, beam_indices, old_beam_size, one_hot), nested
  )


def cache_gather_beams(
  nested: Cache,
  beam_indices: Int[Array, 'batch new_beam'],
  batch_size: int,
  old_beam_size: int,
  new_beam_size: int,
  one_hot: bool = False,
  offset: int = 0,
) -> Cache:
  """`gather_beams` for the leaves of a cache that follow the beams.

  `cache_index` stays: the beams of an example are all equally long.
  """
  del batch_size, new_beam_size

  def pick(x):
    return _pick(x, beam_indices, old_beam_size, one_hot)

  for _ in range(offset):
    pick = jax.vmap(pick)
  return cache_map(pick, nested)


def _pick(x, beam_indices, old_beam_size, one_hot):
  if one_hot:
    rows = jax.nn.one_hot(beam_indices, old_beam_size, dtype=jnp.int32)
    return jnp.einsum('bno,bo...->bn...', rows, x).astype(x.dtype)
  return jax.vmap(lambda beams, picked: beams[picked])(x, beam_indices)


def top_k_two_stage(
  x: Float[Array, 'batch candidates'], k: int
) -> tuple[Float[Array, 'batch k'], Int[Array, 'batch k']]:
  """`lax.top_k`, in two stages where few rows would leave TPU lanes idle.

  Each row is cut into 128 pieces, whose own top k are found side by side; the
  top k of those 128 k is the answer. Ties go to the lower index, as in
  `lax.top_k`.

  Args:
    x: values.
    k: how many to return.

  Returns:
    The largest values in decreasing order, and their indices.
  """
  batch, candidates = x.shape
  pieces = 128
  if batch > 8 or candidates <= 8 * pieces * k:
    return lax.top_k(x, k)
  piece = -(-candidates // pieces)
  padding = ((0, 0), (0, pieces * piece - candidates))
  x = jnp.pad(x, padding, constant_values=-np.inf)
  values, indices = lax.top_k(x.reshape(batch, pieces, piece), k)
  indices = indices + piece * jnp.arange(pieces).reshape(1, pieces, 1)
  values, picked = lax.top_k(values.reshape(batch, pieces * k), k)
  indices = indices.reshape(batch, pieces * k)
  return values, jnp.take_along_axis(indices, picked, axis=1)


def gather_topk_beams(
  nested: PyTree,
  score_or_log_prob: Float[Array, 'batch old_beam'],
  batch_size: int,
  new_beam_size: int,
) -> PyTree:
  """Keeps the beams with the largest scores, in increasing order of score."""
  best = top_k_increasing(score_or_log_prob, new_beam_size)
  return gather_beams(
    nested, best, batch_size, score_or_log_prob.shape[1], new_beam_size
  )


def top_k_increasing(
  scores: Float[Array, 'batch beam'], k: int
) -> Int[Array, 'batch k']:
  """Indices of the k largest scores, the largest last."""
  return jnp.flip(lax.top_k(scores, k)[1], axis=1)
