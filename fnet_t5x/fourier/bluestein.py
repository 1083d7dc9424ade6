"""Ragged Fourier transforms, each row over its own length, in O(N log N).

Bluestein's identity n m = (n^2 + m^2 - (n - m)^2) / 2 turns a transform of any
length L into a convolution with a chirp (L. Bluestein, "A linear filtering
approach to the computation of discrete Fourier transform", 1970). The size of
the convolution does not depend on L, so a batch of rows of different lengths is
a single batched FFT.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

from fnet_t5x.fourier import half_spectrum
from fnet_t5x.fourier.methods import Transform


def convolution_size(length: int) -> int:
  """Returns the smallest 2^a 3^b 5^c that fits a convolution of `length`."""
  minimum = max(2 * length - 1, 1)
  best = 1 << (minimum - 1).bit_length()
  for three in (1, 3, 9, 27):
    for five in (1, 5, 25):
      odd = three * five
      best = min(best, odd << max(-(-minimum // odd) - 1, 0).bit_length())
  return best


def make_chirp(
  lengths: Int[Array, ' batch'], length: int
) -> tuple[Complex[Array, 'batch length'], Complex[Array, 'batch size']]:
  """Returns the chirp and kernel of `bluestein`; all layers share them.

  The chirp is exp(-i pi n^2 / L) at every token n < L and zero on padding; the
  kernel is the transform of the conjugate chirp over the convolution size.

  Args:
    lengths: number of real tokens per row, 0 <= lengths <= length.
    length: tokens per row, padding included.
  """
  period = jnp.maximum(lengths, 1)[:, None]
  index = jnp.arange(length, dtype=jnp.int32)[None, :]
  # n^2 mod 2L in integers: the phase is exact up to the final rounding.
  squares = (index * index) % (2 * period)
  squares = jnp.where(squares >= period, squares - 2 * period, squares)
  angles = squares.astype(jnp.float32) * (np.pi / period.astype(jnp.float32))
  chirp = jax.lax.complex(jnp.cos(angles), -jnp.sin(angles))
  size = convolution_size(length)
  opposite = jnp.conj(chirp)
  gap = jnp.zeros((chirp.shape[0], size - 2 * length + 1), chirp.dtype)
  circular = jnp.concatenate([opposite, gap, opposite[:, :0:-1]], axis=1)
  real = index < lengths[:, None]
  return jnp.where(real, chirp, 0), jnp.fft.fft(circular)


def bluestein(
  x: Complex[Array, 'batch length columns'],
  chirp: Complex[Array, 'batch length'],
  kernel: Complex[Array, 'batch size'],
  transform: Transform = 'fourier',
) -> tuple[
  Float[Array, 'batch length columns'], Float[Array, 'batch length columns']
]:
  """Transforms each column of each row over that row's own length L.

  Formula: z[b, n] = sum over m < L_b of x[b, m] exp(-2 pi i n m / L_b) for
  n < L_b, and zero for n >= L_b; finite values of x there have no effect.
  Returns `half_spectrum.real_parts` of z.
  Cost: two complex FFTs of `convolution_size(length)` per column.

  Args:
    x: columns to transform.
    chirp: of `make_chirp`.
    kernel: of `make_chirp`.
    transform: 'fourier' or 'hartley'.
  """
  length, size = chirp.shape[1], kernel.shape[1]
  chirp = chirp[:, None, :]
  # Move tokens to the last axis once, rather than around each FFT.
  columns = jnp.swapaxes(x, 1, 2) * chirp
  spectrum = jnp.fft.fft(columns, n=size) * kernel[:, None, :]
  z = jnp.fft.ifft(spectrum)[..., :length] * chirp
  first, second = half_spectrum.real_parts(z, transform)
  return jnp.swapaxes(first, 1, 2), jnp.swapaxes(second, 1, 2)
