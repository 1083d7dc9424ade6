"""Causal token mixing by learned filters, with a cache for decoding.

    y_n = sum over m <= n of the same example of t_h[p_n - p_m] (V x)_m

for the features of head h: `toeplitz_mixing.py`'s without lags of the future.
Plain equivalent: `einsum('hnm,bmhd->bnhd', T, x @ V)`, with T[h, n, m] =
t_h[n - m] for m <= n of the same example, and zero elsewhere. Cost per row as
there; a decoding step reads the cache of V x once, [batch, heads, length, kv],
which is half of attention's, and takes 2 D^2 + 2 N D.
"""

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.partitioning import (
  logical_to_mesh_axes,
  with_sharding_constraint,
)
from jax.ad_checkpoint import checkpoint_name
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float, Int

from fnet_t5x.fourier.methods import Method
from fnet_t5x.fourier.toeplitz import causal_filters, causal_step, toeplitz_mix
from fnet_t5x.layers import cache
from fnet_t5x.layers.toeplitz_mixing import (
  HEADS,
  Filter,
  NetworkFilter,
  check_heads,
  lag_parameters,
  split_heads,
  value_projection,
)


class CausalFreeFilter(nn.Module):
  """Filters with one parameter per head and lag, 0 .. max_length - 1.

  Initial values have a variance of 1 / max_length, as those of both directions.

  Attributes:
    num_heads: number of filters.
    max_length: longest row, and number of lags.
  """

  num_heads: int
  max_length: int

  @nn.compact
  def __call__(self, length: int) -> Float[Array, 'heads length']:
    """Returns the filters over lags 0 .. length - 1.

    Raises:
      ValueError: rows are longer than `max_length`.
    """
    if length > self.max_length:
      raise ValueError(
        f'decoder inputs of {length} tokens: free Toeplitz filters are limited '
        f'to {self.max_length}; shorten the feature lengths, raise the maximum '
        'length of the decoder (MAX_DECODER_LENGTH, or MAX_LENGTH of GPT-2), '
        "or set toeplitz_filter='network'"
      )
    filters = lag_parameters(self.num_heads, self.max_length, self.max_length)
    return filters[:, :length]


class CausalToeplitzMixing(nn.Module):
  """Mixing with tokens before by learned filters; see the module.

  Attributes:
    num_heads: number of filters, each for embed / num_heads features.
    max_length: see `CausalFreeFilter` and `NetworkFilter`.
    filter: 'free', a parameter per lag; or 'network', which has no limit of
      length.
    method: 'fft', 'matmul' or 'auto'; packed rows always use matrices.
    dtype: of the computation; FFTs are float32.
    kernel_init: initializer of V.
  """

  num_heads: int
  max_length: int
  filter: Filter = 'free'
  method: Method = 'auto'
  dtype: jnp.dtype = jnp.float32
  kernel_init: Initializer = nn.initializers.variance_scaling(
    1.0, 'fan_in', 'normal'
  )

  @nn.compact
  def __call__(
    self,
    inputs: Float[Array, 'batch length embed'],
    segment_ids: Int[Array, 'batch length'] | None = None,
    *,
    decode: bool = False,
    prefill_lengths: Int[Array, ' batch'] | None = None,
  ) -> Float[Array, 'batch length embed']:
    """Mixes tokens, or one token with those in the cache.

    Decoding makes the three kinds of calls of attention; see `layers.cache`.
    The first also stores the filters, as `cached_bias` [heads, length], a name
    that stands for no beams.

    Args:
      inputs: activations.
      segment_ids: 0 on padding, elsewhere one id per example, if rows are
        packed; tokens of an example follow one another. None: each row is one
        example, whose padding follows it.
      decode: whether to create or use the cache.
      prefill_lengths: prompt lengths; when given, the call is a prefill.

    Returns:
      The mixed activations. On padding they are 0 if rows are packed, and have
      no meaning otherwise.

    Raises:
      ValueError: embed is no multiple of `num_heads`, rows are longer than a
        free filter, or do not fit the cache.
    """
    batch, length, embed = inputs.shape
    check_heads(embed, self.num_heads)
    x = inputs.astype(self.dtype)
    x = value_projection(self.dtype, self.kernel_init, embed)(x)
    x = split_heads(x, self.num_heads)
    if prefill_lengths is not None:
      by_head = jnp.swapaxes(x, 1, 2)
      cache.write_prompts(self, prefill_lengths, cached_value=by_head)
    elif decode:
      appended = cache.append_token(self, cached_value=jnp.swapaxes(x, 1, 2))
      if appended is not None:
        leaves, index = appended
        lags = self.get_variable('cache', 'cached_bias')
        x = causal_step(leaves['cached_value'], index, lags)
        return x.reshape(batch, 1, embed)
    lags = self._lags(length)
    if decode:
      self.put_variable('cache', 'cached_bias', lags)
    if segment_ids is not None:
      # Not sharded along the rows, as XLA would infer for them, and then for
      # all that is made from them: they are small.
      ids = with_sharding_constraint(segment_ids, ('batch', 'length'))
    else:
      ids = jnp.ones((batch, length), jnp.int32)
    x = toeplitz_mix(
      [(x, causal_filters(lags, length))],
      ids,
      packed=segment_ids is not None,
      method=self.method,
      heads_axis=logical_to_mesh_axes(HEADS)[2],
    )
    x = with_sharding_constraint(x, HEADS).reshape(batch, length, embed)
    x = with_sharding_constraint(x, ('batch', 'length', 'embed'))
    # Named for remat policies, which know products with weights but no FFT.
    return checkpoint_name(x, 'mixing')

  def _lags(self, length) -> Float[Array, 'heads length']:
    sizes = self.num_heads, self.max_length
    if self.filter == 'free':
      return CausalFreeFilter(*sizes, name='filters')(length)
    return NetworkFilter(*sizes, name='filters')(length)[:, length - 1 :]
