"""Transform over features, by FFT or by matrices."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fnet_t5x.fourier.dft_matrix import dft_matrices
from fnet_t5x.fourier.methods import Scale
from fnet_t5x.fourier.precision import matmul, widen
from fnet_t5x.fourier.scales import scale_factor

_STATIC = {'static': True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EmbedDFT:
  """Transform over the last axis, as a pytree.

  Attributes:
    method: 'fft' or 'matmul'.
    scale: 'ortho' divides by sqrt(embed), 'none' does not.
    matrices: scaled cos and sin; None for the FFT, or to compute them in each
      call.
  """

  method: Literal['fft', 'matmul'] = dataclasses.field(metadata=_STATIC)
  scale: Scale = dataclasses.field(metadata=_STATIC)
  matrices: Float[Array, '2 embed embed'] | None = None

  def half(
    self,
    x: Float[Array, 'batch length embed'],
    dtype: jnp.dtype | None = None,
  ) -> tuple[Float[Array, 'batch length half'], Float[Array, '...']]:
    """Returns a and b, where a - i b is the first half of the transform of x.

    Args:
      x: activations.
      dtype: of the result with matrices; None for float32.
    """
    embed = x.shape[-1]
    if self.method == 'fft':
      spectrum = jnp.fft.rfft(widen(x)) * scale_factor(embed, self.scale)
      return spectrum.real, -spectrum.imag
    cosine, sine = self.matrices_of(embed, x.dtype)[..., : embed // 2 + 1]
    return (
      matmul('dk,bmd->bmk', cosine, x, dtype),
      matmul('dk,bmd->bmk', sine, x, dtype),
    )

  def real(
    self,
    real: Float[Array, 'batch length embed'],
    imaginary: Float[Array, 'batch length embed'],
  ) -> Float[Array, 'batch length embed']:
    """Returns Re(F z) of z = real + i imaginary."""
    embed = real.shape[-1]
    if self.method == 'fft':
      z = jax.lax.complex(widen(real), widen(imaginary))
      return jnp.fft.fft(z).real * scale_factor(embed, self.scale)
    cosine, sine = self.matrices_of(embed, real.dtype)
    return matmul('dk,bmd->bmk', cosine, real) + matmul(
      'dk,bmd->bmk', sine, imaginary
    )

  def matrices_of(
    self, embed: int, dtype: jnp.dtype
  ) -> Float[Array, '2 embed embed']:
    """Returns scaled cos and sin: the stored ones, or new ones of `dtype`."""
    if self.matrices is not None:
      return self.matrices
    return make_embed_matrices(embed, self.scale).astype(dtype)


def make_embed_matrices(
  embed: int, scale: Scale
) -> Float[Array, '2 embed embed']:
  """Returns scaled cos and sin of 2 pi i j / embed."""
  matrices = jnp.stack(dft_matrices(embed, embed, embed))
  return matrices * scale_factor(embed, scale)
