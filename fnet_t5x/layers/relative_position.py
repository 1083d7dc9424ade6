"""T5's relative position biases (Raffel et al. 2020, 1910.10683, 2.1)."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.linen.partitioning import param_with_axes
from jaxtyping import Array, Float, Int

from fnet_t5x.fourier.toeplitz import offset_matrix


def relative_position_bucket(
  relative_position: Int[np.ndarray, '...'],
  bidirectional: bool = True,
  num_buckets: int = 32,
  max_distance: int = 128,
) -> Int[np.ndarray, '...']:
  """Maps offsets to buckets: one per offset when small, then log-spaced.

  Args:
    relative_position: key position minus query position, in tokens.
    bidirectional: whether half of the buckets are for keys after the query;
      otherwise those share the bucket of distance 0.
    num_buckets: number of buckets.
    max_distance: distance from which on all share the last bucket.

  Returns:
    Buckets in [0, num_buckets).
  """
  relative_position = np.asarray(relative_position)
  if bidirectional:
    num_buckets //= 2
    first = np.where(relative_position > 0, num_buckets, 0)
    distance = np.abs(relative_position)
  else:
    first = 0
    distance = np.maximum(-relative_position, 0)
  exact = num_buckets // 2
  # In float32 with this epsilon, as in T5X: a distance on the border of two
  # buckets must fall on the same side.
  ratio = distance.astype(np.float32) / exact + np.finfo(np.float32).eps
  log_spaced = exact + (
    np.log(ratio) / np.log(max_distance / exact) * (num_buckets - exact)
  ).astype(np.int32)
  log_spaced = np.minimum(log_spaced, num_buckets - 1)
  return (first + np.where(distance < exact, distance, log_spaced)).astype(
    np.int32
  )


class RelativePositionBiases(nn.Module):
  """A learned bias per head and bucket of key-query offsets.

  Attributes:
    num_buckets: see `relative_position_bucket`.
    max_distance: see `relative_position_bucket`.
    num_heads: number of attention heads.
    dtype: of the biases.
    embedding_init: initializer of the [heads, buckets] table.
  """

  num_buckets: int
  max_distance: int
  num_heads: int
  dtype: jnp.dtype
  embedding_init: Callable[..., Array] = nn.linear.default_embed_init

  def setup(self):
    self.rel_embedding = param_with_axes(
      'rel_embedding',
      self.embedding_init,
      (self.num_heads, self.num_buckets),
      jnp.float32,
      axes=('heads', 'relpos_buckets'),
    )

  def _lookup(
    self, relative_position: Int[np.ndarray, ' offsets'], bidirectional: bool
  ) -> Float[Array, 'heads offsets']:
    buckets = relative_position_bucket(
      relative_position, bidirectional, self.num_buckets, self.max_distance
    )
    # A contraction with a one-hot constant: its gradient is a matmul too. A
    # gather's gradient would scatter.
    one_hot = np.arange(self.num_buckets)[:, None] == buckets[None]
    # In float32, so that gradients are summed in it.
    return jnp.matmul(
      self.rel_embedding.astype(self.dtype).astype(jnp.float32),
      jnp.asarray(one_hot, jnp.float32),
      precision='highest',
    )

  def __call__(
    self,
    qlen: int,
    klen: int,
    bidirectional: bool = True,
    *,
    decode: bool = False,
    prefill_lengths: Int[Array, ' batch'] | None = None,
  ) -> Float[Array, '#batch heads qlen klen']:
    """Returns the attention biases of a layer.

    With `decode=True` the first call creates a cache for `klen` positions
    (`cached_bias` [heads, klen], the bias by distance, and `cache_index`), and
    later calls return the biases of one query, at the next position, over all
    cached keys, [1 or batch, heads, 1, klen], and ignore `qlen` and `klen`.

    Args:
      qlen: number of queries, at positions 0, 1, ...
      klen: number of keys, at positions 0, 1, ...
      bidirectional: whether keys after the query have their own buckets.
      decode: whether to create or use the cache. Needs a causal decoder.
      prefill_lengths: position of each row's next decoding step.

    Returns:
      The biases, to be added to the attention logits.
    """
    if prefill_lengths is not None:
      self.put_variable('cache', 'cache_index', prefill_lengths)
    if decode and self.has_variable('cache', 'cached_bias'):
      return self._next_row()
    if decode:
      by_distance = self._lookup(-np.arange(klen), bidirectional)
      by_distance = by_distance.astype(self.dtype)
      self.put_variable('cache', 'cached_bias', by_distance)
      self.put_variable('cache', 'cache_index', jnp.array(0, jnp.int32))
    by_offset = self._lookup(np.arange(1 - qlen, klen), bidirectional)
    return offset_matrix(by_offset, qlen).astype(self.dtype)[None]

  def _next_row(self) -> Float[Array, '#batch heads 1 klen']:
    by_distance = self.get_variable('cache', 'cached_bias')
    index = self.get_variable('cache', 'cache_index')
    self.put_variable('cache', 'cache_index', index + 1)
    keys = jnp.arange(by_distance.shape[-1])[None, :]
    # Attention masks keys not yet written, whatever their bias.
    distance = jnp.maximum(index.reshape(-1, 1) - keys, 0)
    row = jnp.take(by_distance, distance, axis=-1, mode='clip')
    return jnp.swapaxes(row, 0, 1)[:, :, None, :]
