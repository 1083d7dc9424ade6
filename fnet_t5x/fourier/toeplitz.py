"""Products with Toeplitz matrices: one filter per head over relative positions.

For tokens n and m of the same example, y_n = sum over m of t_h[n - m] x_m, with
one filter t_h for all features of head h. Tokens of an example follow one
another in a row, so that the difference of their indices is that of their
positions. Two ways to compute it, equal up to rounding:

- 'fft', a long convolution: with x zero on padding, and the filter in circular
  order over at least 2 N - 1 points, y = irfft(rfft(x) rfft(t)), of which the
  first N are kept. O(N log N), in float32. One example per row only: packed
  examples are nearer to one another than the filter is long.
- 'matmul', the matrix T[n, m] = t[n - m], shared by all rows if they are not
  packed, and otherwise masked for each row, [batch, heads, N, N]. O(N^2).

Toeplitz mixing is that of Sparse Mixers (Lee-Thorp and Ainslie 2022, arXiv
2205.12399), there over whole padded rows and with one filter for all features.
"""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fnet_t5x.fourier import methods
from fnet_t5x.fourier.bluestein import convolution_size
from fnet_t5x.fourier.data_parallel import map_rows_and_heads
from fnet_t5x.fourier.methods import Method
from fnet_t5x.fourier.precision import matmul, widen

Heads = Float[Array, 'batch length heads kv']
Filters = Float[Array, 'heads lags']

# Minimum number of tokens per row from which 'auto' takes the FFT, by forward
# and backward pass together. CPU: measured by `python -m
# fnet_t5x.benchmarks.mixing`, float32, 12 heads of 64, 2048 tokens: matrices
# take 0.65 of the FFT's time at 256 tokens, 0.93 at 384, 1.04 at 512, and
# several times it from 1024. Estimates, not measured: on GPU from the like of
# Fourier mixing; on TPU matrices up to 4096, as there.
FFT_MIN_LENGTH = {'cpu': 512, 'gpu': 2048, 'tpu': 8192}


# Of method and tokens; see `methods.choose_convolution`.
choose_method = functools.partial(
  methods.choose_convolution, 'toeplitz_method', FFT_MIN_LENGTH
)


def toeplitz_mix(
  terms: Sequence[tuple[Heads, Filters]],
  segment_ids: Int[Array, 'batch length'],
  *,
  packed: bool = False,
  method: Method = 'auto',
  heads_axis: str | None = None,
) -> Heads:
  """Returns `y_n = sum over terms (x, t), and m, of t[n - m] x_m`.

  m runs over the tokens of n's own example. On padding y is 0, for any finite x
  there. Linear in each x and in each t; composes with jit, vmap, grad, jvp,
  remat and scan. Under a mesh with a data axis each device has its own rows.

  Args:
    terms: activations and filters, one or more of the same shapes. A filter has
      2 N - 1 lags for rows of N tokens, from -(N - 1) (m after n) to N - 1.
    segment_ids: 0 on padding, elsewhere one id per example.
    packed: whether rows hold several examples, each a run of equal ids; if not,
      each row is one example, whatever the ids.
    method: see `choose_method`.
    heads_axis: the mesh axis that heads are sharded over, if any.

  Raises:
    ValueError: an unknown method, or filters of another length.
  """
  tokens = terms[0][0].shape[1]
  for _, filters in terms:
    if filters.shape[1] != 2 * tokens - 1:
      raise ValueError(
        f'toeplitz_mix: filters of {filters.shape[1]} lags; rows of {tokens} '
        f'tokens need {2 * tokens - 1}'
      )
  real = (segment_ids > 0)[:, :, None, None]
  terms = [(jnp.where(real, x, 0), filters) for x, filters in terms]
  if choose_method(method, tokens, packed=packed) == 'fft':
    # XLA would gather the batch; see `data_parallel.py`.
    y = map_rows_and_heads(
      _convolve,
      [x for x, _ in terms],
      [filters for _, filters in terms],
      heads_axis,
    )
  else:
    y = _multiply(terms, segment_ids if packed else None)
  return jnp.where(real, y, 0)


def causal_filters(
  lags: Float[Array, 'heads max_length'], tokens: int
) -> Filters:
  """Returns filters for rows of `tokens` tokens that see no later ones.

  Args:
    lags: values of the lags 0, 1, ..., at least `tokens` of them.
    tokens: tokens per row.
  """
  return jnp.pad(lags[:, :tokens], ((0, 0), (tokens - 1, 0)))


def causal_step(
  cached: Float[Array, 'batch heads length kv'],
  index: Int[Array, '...'],
  lags: Float[Array, 'heads length'],
) -> Float[Array, 'batch heads kv']:
  """Returns `y_n = sum over m <= n of t[n - m] x_m` at one position per row.

  One pass over the cache. Cost per row: 2 N D.

  Args:
    cached: x of positions 0, 1, ...; what follows n is ignored, if finite.
    index: n: a scalar, or one per row.
    lags: t of the lags 0, 1, ..., as many as positions.
  """
  length = cached.shape[2]
  distance = index.reshape(-1, 1) - jnp.arange(length)[None, :]
  weights = jnp.take(lags, jnp.maximum(distance, 0), axis=1, mode='clip')
  weights = jnp.where((distance >= 0)[None], weights, 0)
  weights = jnp.broadcast_to(
    jnp.swapaxes(weights, 0, 1), (cached.shape[0], *weights[:, 0].shape)
  )
  y = matmul('bhm,bhmd->bhd', weights.astype(cached.dtype), cached)
  return y.astype(cached.dtype)


def toeplitz_matrix(filters: Filters) -> Float[Array, 'heads length length']:
  """Returns T[h, n, m] = t_h[n - m] of filters over lags -(N - 1) .. N - 1."""
  return offset_matrix(filters[:, ::-1], (filters.shape[1] + 1) // 2)


def offset_matrix(
  by_offset: Float[Array, 'heads offsets'], rows: int
) -> Float[Array, 'heads rows columns']:
  """Returns `y[h, n, m] = by_offset[h, m - n + rows - 1]`.

  Copies of a row of k + 1 numbers, read in lines of k, begin one number earlier
  with each line. So there is no constant of [rows, columns], which long inputs
  cannot afford, and the gradient is a product with ones, where a gather's would
  scatter.

  Args:
    by_offset: values of the offsets from `1 - rows` to `columns - 1`.
    rows: number of rows.
  """
  heads, offsets = by_offset.shape
  line = jnp.pad(by_offset, ((0, 0), (0, 1)))
  copies = jnp.einsum('n,hk->hnk', jnp.ones(rows, line.dtype), line)
  lines = copies.reshape(heads, -1)[:, : rows * offsets]
  return lines.reshape(heads, rows, offsets)[:, :, rows - 1 :]


def _convolve(xs, filters):
  """Returns the sum of convolutions, by one inverse transform for all."""
  dtype, tokens = xs[0].dtype, xs[0].shape[1]
  size = convolution_size(tokens)
  spectrum = sum(
    # Tokens on the last axis once, rather than around each FFT.
    jnp.fft.rfft(widen(jnp.moveaxis(x, 1, 3)), n=size)
    * _filter_spectrum(each, tokens, size)
    for x, each in zip(xs, filters, strict=True)
  )
  y = jnp.fft.irfft(spectrum, n=size)[..., :tokens]
  return jnp.moveaxis(y, 3, 1).astype(dtype)


def _filter_spectrum(filters, tokens, size):
  """Returns the transform of filters in circular order, for any features."""
  past, future = filters[:, tokens - 1 :], filters[:, : tokens - 1]
  gap = jnp.zeros((filters.shape[0], size - filters.shape[1]), filters.dtype)
  circular = jnp.concatenate([past, gap, future], axis=1)
  return jnp.fft.rfft(widen(circular))[None, :, None, :]


def _multiply(terms, segment_ids):
  """Returns the sum of products with matrices, masked if there are ids."""
  same = None
  if segment_ids is not None:
    same = (segment_ids[:, :, None] == segment_ids[:, None, :])[:, None]
  product = functools.partial(
    matmul, 'hnm,bmhd->bnhd' if same is None else 'bhnm,bmhd->bnhd'
  )
  total = 0
  for x, filters in terms:
    matrix = toeplitz_matrix(filters.astype(x.dtype))
    if same is not None:
      matrix = jnp.where(same, matrix[None], 0)
    total += product(matrix, x)
  return total.astype(terms[0][0].dtype)
