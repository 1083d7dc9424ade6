"""Token mixing by learned filters over relative positions, one per head.

    y_n = sum over m of the same example of t_h[p_n - p_m] (V x)_m

for the features of head h (Sparse Mixers, arXiv 2205.12399, and Hydra, arXiv
2407.09941, table 2: among fixed mixers the nearest to attention). Plain
equivalent: `einsum('hnm,bmhd->bnhd', T, x @ V)`, with T[h, n, m] = t_h[n - m]
and zero between examples. Cost per row: 2 N D^2 for V, and O(N log N) by FFT or
2 N^2 D by matrices; `fourier/toeplitz.py` has both, and `auto` chooses.
"""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.partitioning import (
  logical_to_mesh_axes,
  param_with_axes,
  with_sharding_constraint,
)
from jax.ad_checkpoint import checkpoint_name
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float, Int

from fnet_t5x.fourier.methods import Method
from fnet_t5x.fourier.toeplitz import toeplitz_mix
from fnet_t5x.layers.dense import DenseGeneral

Filter = Literal['free', 'network']

# As in attention, devices exchange tokens for heads if tokens are sharded.
HEADS = ('batch', 'length', 'heads', 'kv')
_TOKENS = ('batch', 'encoder_length', 'embed')


class FreeFilter(nn.Module):
  """Filters with one parameter per head and lag.

  Initial values have variance 1 / max_length, so that a row of max_length
  tokens keeps the mean square of white noise, and shorter ones have less.

  Attributes:
    num_heads: number of filters.
    max_length: longest row; a filter has 2 max_length - 1 parameters.
  """

  num_heads: int
  max_length: int

  @nn.compact
  def __call__(self, length: int) -> Float[Array, 'heads lags']:
    """Returns the filters over lags -(length - 1) .. length - 1.

    Raises:
      ValueError: rows are longer than `max_length`.
    """
    if length > self.max_length:
      raise ValueError(
        f'encoder inputs of {length} tokens: free Toeplitz filters are limited '
        f'to max_encoder_length={self.max_length}; shorten the feature length, '
        "raise max_encoder_length, or set toeplitz_filter='network'"
      )
    filters = lag_parameters(
      self.num_heads, 2 * self.max_length - 1, self.max_length
    )
    return filters[:, self.max_length - length : self.max_length + length - 1]


def lag_parameters(
  num_heads: int, lags: int, max_length: int
) -> Float[Array, 'heads lags']:
  """Creates a filter's parameters, in a compact method.

  Args:
    num_heads: number of filters.
    lags: parameters of each.
    max_length: longest row; initial values have a variance of 1 / max_length.
  """
  return param_with_axes(
    'lags',
    nn.initializers.normal(max_length**-0.5),
    (num_heads, lags),
    jnp.float32,
    axes=('heads', 'relpos_buckets'),
  )


def value_projection(dtype: jnp.dtype, kernel_init: Initializer, embed: int):
  """Returns the linear map V of Toeplitz mixing."""
  return DenseGeneral(
    embed,
    dtype=dtype,
    kernel_init=kernel_init,
    kernel_axes=('embed', 'joined_kv'),
    name='embed_mixing',
  )


def check_heads(embed: int, num_heads: int) -> None:
  """Raises ValueError if filters cannot share the features equally."""
  if embed % num_heads:
    raise ValueError(
      f'toeplitz mixing: emb_dim={embed} is not a multiple of '
      f'num_heads={num_heads}, the number of its filters'
    )


def split_heads(
  x: Float[Array, 'batch length embed'], num_heads: int
) -> Float[Array, 'batch length heads kv']:
  """Returns the features of each filter, sharded by head."""
  x = x.reshape(*x.shape[:2], num_heads, -1)
  return with_sharding_constraint(x, HEADS)


class NetworkFilter(nn.Module):
  """Filters computed from the lag by a network with one hidden layer.

  Its inputs are the lag's sign, the logarithm of its distance, and cosines and
  sines of wavelengths up to 128 tokens, which an input of usual length has seen
  whole: only the logarithm leaves the trained range for longer inputs, and it
  does so slowly. There is no limit of length (Toeplitz neural network, Qin et
  al. 2023, arXiv 2305.04749, whose network reads the lag itself).

  Initial filters have a variance of about 1 / max_length, as free ones.

  Attributes:
    num_heads: number of filters.
    max_length: length of row for which initial values are scaled; no limit.
    hidden: width of the hidden layer.
  """

  num_heads: int
  max_length: int
  hidden: int = 64

  @nn.compact
  def __call__(self, length: int) -> Float[Array, 'heads lags']:
    """Returns the filters over lags -(length - 1) .. length - 1."""
    x = lag_features(length)
    # Replicated: the network is small.
    kernel = param_with_axes(
      'hidden_weights',
      nn.initializers.lecun_normal(),
      (x.shape[1], self.hidden),
      jnp.float32,
      axes=('relpos_buckets', 'kv'),
    )
    bias = param_with_axes(
      'hidden_bias',
      nn.initializers.zeros,
      (self.hidden,),
      jnp.float32,
      axes=('kv',),
    )
    x = x @ kernel
    x = nn.gelu(x + jnp.broadcast_to(bias, x.shape))
    kernel = param_with_axes(
      'output_weights',
      # The mean square of the hidden layer is about 1 / 4.
      nn.initializers.variance_scaling(
        4.0 / self.max_length, 'fan_in', 'normal'
      ),
      (self.hidden, self.num_heads),
      jnp.float32,
      axes=('kv', 'heads'),
    )
    return (x @ kernel).T


def lag_features(length: int) -> Float[Array, 'lags features']:
  """Returns inputs of `NetworkFilter`, for lags -(length - 1) .. length - 1."""
  lag = jnp.arange(1 - length, length, dtype=jnp.float32)[:, None]
  wavelengths = 2.0 ** jnp.arange(1, 8, dtype=jnp.float32)[None, :]
  # Whole turns are dropped first: exact, since wavelengths are powers of two.
  angles = 2 * jnp.pi * ((lag / wavelengths) % 1.0)
  distance = jnp.log1p(jnp.abs(lag))
  return jnp.concatenate(
    [
      jnp.sign(lag),
      (lag == 0).astype(jnp.float32),
      distance / 4,  # about 1 at the distance of 50 tokens
      jnp.cos(angles),
      jnp.sin(angles),
    ],
    axis=1,
  )


class TokenWeights(nn.Module):
  """Two positive weights per token and head: as seen from later tokens, and
  from earlier ones.

  Twice a sigmoid of a linear map: about 1 at first, which is the mixing without
  them, and bounded.

  Attributes:
    num_heads: number of heads.
    dtype: of the computation.
  """

  num_heads: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, inputs: Float[Array, 'batch length embed']
  ) -> tuple[Float[Array, 'batch length heads'], ...]:
    """Returns the weights a and b of `ToeplitzMixing`."""
    return tuple(
      2
      * nn.sigmoid(
        DenseGeneral(
          self.num_heads,
          dtype=self.dtype,
          kernel_axes=('embed', 'heads'),
          name=name,
        )(inputs)
      )
      for name in ('seen_later', 'seen_earlier')
    )


class ToeplitzMixing(nn.Module):
  """Mixing by learned filters over relative positions; see the module.

  Attributes:
    num_heads: number of filters, each for embed / num_heads features.
    max_length: see `FreeFilter` and `NetworkFilter`.
    filter: 'free', a parameter per lag; or 'network', which has no limit of
      length.
    method: 'fft', 'matmul' or 'auto'; packed rows always use matrices.
    dtype: of the computation; FFTs are float32.
    project: whether there is a V; otherwise it is the identity, for inputs that
      have been projected already.
    kernel_init: initializer of V.
  """

  num_heads: int
  max_length: int
  filter: Filter = 'free'
  method: Method = 'auto'
  dtype: jnp.dtype = jnp.float32
  project: bool = True
  kernel_init: Initializer = nn.initializers.variance_scaling(
    1.0, 'fan_in', 'normal'
  )

  @nn.compact
  def __call__(
    self,
    inputs: Float[Array, 'batch length embed'],
    segment_ids: Int[Array, 'batch length'],
    packed: bool = False,
    weights: tuple[Float[Array, 'batch length heads'], ...] | None = None,
  ) -> Float[Array, 'batch length embed']:
    """Mixes the tokens of each example.

    Args:
      inputs: activations.
      segment_ids: 0 on padding, elsewhere one id per example; tokens of an
        example follow one another.
      packed: whether rows hold several examples.
      weights: a and b per token and head, which make the mixing depend on the
        data: y_n = sum over m <= n of t[n - m] a_m x_m, plus the sum over m > n
        of t[n - m] b_m x_m. This takes twice the products, or 3 / 2 of the
        FFTs.

    Returns:
      The mixed activations, 0 on padding.

    Raises:
      ValueError: embed is no multiple of `num_heads`, or rows are longer than
        a free filter.
    """
    batch, length, embed = inputs.shape
    check_heads(embed, self.num_heads)
    module = FreeFilter if self.filter == 'free' else NetworkFilter
    filters = module(self.num_heads, self.max_length, name='filters')(length)
    # Not sharded along the rows, as XLA would infer for them, and then for all
    # that is made from them: they are small.
    segment_ids = with_sharding_constraint(segment_ids, ('batch', 'length'))
    x = inputs.astype(self.dtype)
    if self.project:
      x = value_projection(self.dtype, self.kernel_init, embed)(x)
    x = split_heads(x, self.num_heads)
    terms = [(x, filters)]
    if weights is not None:
      a, b = (jnp.broadcast_to(w[..., None], x.shape) for w in weights)
      past = (jnp.arange(2 * length - 1) >= length - 1)[None, :]
      terms = [
        (a * x, jnp.where(past, filters, 0)),
        (b * x, jnp.where(past, 0, filters)),
      ]
    x = toeplitz_mix(
      terms,
      segment_ids,
      packed=packed,
      method=self.method,
      heads_axis=logical_to_mesh_axes(HEADS)[2],
    )
    x = with_sharding_constraint(x, HEADS).reshape(batch, length, embed)
    if self.project:
      x = with_sharding_constraint(x, _TOKENS)
    # Named for remat policies, which know products with weights but no FFT.
    return checkpoint_name(x, 'mixing')
