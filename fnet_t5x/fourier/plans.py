"""Mixing plans: algorithms with the arrays that all layers share.

A plan is a pytree, made by `make_mixing_plan`, that has

- `mix(x)`: the mixed activations, in their dtype;
- `length_dft(a, b)`: A a + B b and A a - B b of each column. For columns k of
  `embed_dft.half` these are the mixed features k and embed - k;
- `embed_dft`: the transform over features;
- `tokens`: tokens per row, padding included; `batch`: the number of rows it was
  made for, None if it fits any number;
- `specs(rows)`: the specs of its arrays if `rows` is the spec of the batch.

Either transform is y = A x C_D + B x S_D, where C and S are the cosines and
sines of an axis. Fourier mixing, Re(F_length x F_embed), has A = C_N and B =
-S_N. The Hartley transform, Re - Im of the same, that is the sum over m and k
of x[m, k] cas(2 pi (n m / length + j k / embed)) with cas = cos + sin, has A =
C_N + S_N and B = C_N - S_N (Bracewell 1983). Both are their own transposes.
Its matrices cost as much as Fourier's, and so do FFTs, whose imaginary parts
are computed anyway; folded matrices cost twice as much.

Scale 'ortho' is part of the arrays: 1 / sqrt(length) or 1 / sqrt(embed). The
Hartley transform is then its own inverse, too.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Complex, Float, Int

from fnet_t5x.fourier import half_spectrum
from fnet_t5x.fourier.bluestein import bluestein
from fnet_t5x.fourier.embed_dft import EmbedDFT
from fnet_t5x.fourier.folded import folded_hartley, folded_real
from fnet_t5x.fourier.methods import Scale, Transform
from fnet_t5x.fourier.precision import matmul, widen
from fnet_t5x.fourier.scales import scale_factor

Columns = Float[Array, 'batch length columns']
Activations = Float[Array, 'batch length embed']

_STATIC = {'static': True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FFTPlan:
  """FFTs over whole rows.

  Attributes:
    tokens: tokens per row.
    scale: 'ortho' or 'none'.
    embed_dft: the transform over features.
    transform: 'fourier' or 'hartley'.
  """

  tokens: int = dataclasses.field(metadata=_STATIC)
  scale: Scale = dataclasses.field(metadata=_STATIC)
  embed_dft: EmbedDFT
  transform: Transform = dataclasses.field(default='fourier', metadata=_STATIC)

  @property
  def batch(self) -> None:
    """None: fits any number of rows."""
    return None

  def specs(self, rows: PartitionSpec) -> 'FFTPlan':
    """Returns the specs; all rows share the arrays."""
    del rows
    return dataclasses.replace(self, embed_dft=PartitionSpec())

  def mix(self, x: Activations) -> Activations:
    """Mixes rows; see the module."""
    embed = x.shape[-1]
    factor = scale_factor(self.tokens, self.scale)
    if self.embed_dft.method == 'fft':
      spectrum = jnp.fft.rfftn(widen(x), axes=(-2, -1))
      factor *= scale_factor(embed, self.scale)
    else:
      a, b = self.embed_dft.half(x)
      spectrum = jnp.fft.fft(jax.lax.complex(a, -b), axis=-2)
    half, opposite = (
      (part * factor).astype(x.dtype)
      for part in half_spectrum.real_parts(spectrum, self.transform)
    )
    return half_spectrum.mirror(half, opposite, embed)

  def length_dft(self, a: Columns, b: Columns) -> tuple[Columns, Columns]:
    """Transforms columns; see the module."""
    factor = scale_factor(self.tokens, self.scale)
    z = jax.lax.complex(widen(a), -widen(b))
    y, opposite = (
      part * factor
      for part in half_spectrum.real_parts(
        jnp.fft.fft(z, axis=-2), self.transform
      )
    )
    opposite = jnp.concatenate([opposite[:, :1], opposite[:, :0:-1]], axis=1)
    return y, opposite


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MatricesPlan:
  """Products with DFT matrices over tokens.

  Attributes:
    matrices: A and B over tokens, shared by all rows or one per row.
    embed_dft: the transform over features.
    all_features: whether all features are computed, by matrices; otherwise half
      of them, and the rest by symmetry.
  """

  matrices: Float[Array, '*batch 2 length length']
  embed_dft: EmbedDFT
  all_features: bool = dataclasses.field(metadata=_STATIC)

  @property
  def tokens(self) -> int:
    """Tokens per row."""
    return self.matrices.shape[-1]

  @property
  def batch(self) -> int | None:
    """Number of rows it was made for; None if they share the matrices."""
    return self.matrices.shape[0] if self._axis else None

  @property
  def _axis(self):
    """Einsum subscript of the matrices' batch axis, '' without one."""
    return 'b' if self.matrices.ndim == 4 else ''

  def specs(self, rows: PartitionSpec) -> 'MatricesPlan':
    """Returns the specs; matrices per row are sharded like the rows."""
    return dataclasses.replace(
      self,
      matrices=rows if self._axis else PartitionSpec(),
      embed_dft=PartitionSpec(),
    )

  def mix(self, x: Activations) -> Activations:
    """Mixes rows; see the module."""
    embed = x.shape[-1]
    if not self.all_features:
      even, odd = self._sums(*self.embed_dft.half(x, x.dtype))
      return half_spectrum.unfold(even, odd, embed).astype(x.dtype)
    # Two products, each with cosines and sines together, so that nothing is
    # transposed or concatenated between them. They return x's dtype, which
    # avoids a pass in float32.
    pair = matmul(f'{self._axis}cnm,bmk->bcnk', self.matrices, x, x.dtype)
    # Stops XLA fusing the first product into the second and recomputing it.
    pair = jax.lax.optimization_barrier(pair)
    matrices = self.embed_dft.matrices_of(embed, x.dtype)
    return matmul('ckd,bcnk->bnd', matrices, pair, x.dtype)

  def length_dft(self, a: Columns, b: Columns) -> tuple[Columns, Columns]:
    """Transforms columns; see the module."""
    even, odd = self._sums(a, b)
    return even - odd, even + odd

  def _sums(self, a, b):
    """Returns A a and -B b: for Fourier, sums of a cos and of b sin."""
    pair = jnp.stack([a, b], axis=1)
    # Slices of the matrices would be copied in every layer.
    sums = matmul(f'{self._axis}cnm,bcmk->bcnk', self.matrices, pair)
    return sums[:, 0], -sums[:, 1]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FoldedPlan:
  """Products with matrices over half of each row's own tokens (`folded.py`).

  Attributes:
    tokens: tokens per row.
    lengths: number of real tokens per row.
    matrices: of `make_folded_matrices`.
    embed_dft: the transform over features.
    transform: 'fourier' or 'hartley'.
  """

  tokens: int = dataclasses.field(metadata=_STATIC)
  lengths: Int[Array, ' batch']
  matrices: Float[Array, 'batch 2 half half']
  embed_dft: EmbedDFT
  transform: Transform = dataclasses.field(default='fourier', metadata=_STATIC)

  @property
  def batch(self) -> int:
    """Rows it was made for."""
    return self.lengths.shape[0]

  def specs(self, rows: PartitionSpec) -> 'FoldedPlan':
    """Rows share the transform over features alone."""
    return dataclasses.replace(
      self, lengths=rows, matrices=rows, embed_dft=PartitionSpec()
    )

  def mix(self, x: Activations) -> Activations:
    """Mixes rows; see the module."""
    y, opposite = self.length_dft(*self.embed_dft.half(x))
    return half_spectrum.join(y, opposite, x.shape[-1]).astype(x.dtype)

  def length_dft(self, a: Columns, b: Columns) -> tuple[Columns, Columns]:
    """Transforms columns; see the module."""
    fold = folded_real if self.transform == 'fourier' else folded_hartley
    return fold(a, b, self.matrices, self.lengths)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BluesteinPlan:
  """Bluestein's algorithm over each row's own tokens (`bluestein.py`).

  Attributes:
    lengths: number of real tokens per row.
    chirp: first result of `make_chirp`.
    kernel: second result of `make_chirp`.
    embed_dft: the transform over features.
    transform: 'fourier' or 'hartley'.
  """

  lengths: Int[Array, ' batch']
  chirp: Complex[Array, 'batch length']
  kernel: Complex[Array, 'batch size']
  embed_dft: EmbedDFT
  transform: Transform = dataclasses.field(default='fourier', metadata=_STATIC)

  @property
  def tokens(self) -> int:
    """Tokens per row."""
    return self.chirp.shape[-1]

  @property
  def batch(self) -> int:
    """Rows it was made for."""
    return self.lengths.shape[0]

  def specs(self, rows: PartitionSpec) -> 'BluesteinPlan':
    """Rows share the transform over features alone."""
    return dataclasses.replace(
      self, lengths=rows, chirp=rows, kernel=rows, embed_dft=PartitionSpec()
    )

  def mix(self, x: Activations) -> Activations:
    """Mixes rows; see the module."""
    half, opposite = (
      part.astype(x.dtype) for part in self._parts(*self.embed_dft.half(x))
    )
    return half_spectrum.mirror_rows(half, opposite, x.shape[-1], self.lengths)

  def length_dft(self, a: Columns, b: Columns) -> tuple[Columns, Columns]:
    """Transforms columns; see the module."""
    y, opposite = self._parts(a, b)
    return y, half_spectrum.reverse_modulo(opposite, self.lengths)

  def _parts(self, a, b):
    z = jax.lax.complex(widen(a), -widen(b))
    return bluestein(z, self.chirp, self.kernel, self.transform)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FullRowsPlan:
  """Plain FFT if all rows of a device are full, otherwise another plan.

  Attributes:
    full: whether each row is full.
    fft: the plan for full rows.
    ragged: the plan for any rows.
  """

  full: Bool[Array, ' batch']
  fft: FFTPlan
  ragged: MatricesPlan | FoldedPlan | BluesteinPlan

  @property
  def tokens(self) -> int:
    """Tokens per row."""
    return self.fft.tokens

  @property
  def batch(self) -> int:
    """Rows it was made for."""
    return self.full.shape[0]

  @property
  def embed_dft(self) -> EmbedDFT:
    """The transform over features, when used outside `mix`."""
    return self.ragged.embed_dft

  def specs(self, rows: PartitionSpec) -> 'FullRowsPlan':
    """Returns the specs of its parts."""
    return FullRowsPlan(rows, self.fft.specs(rows), self.ragged.specs(rows))

  def mix(self, x: Activations) -> Activations:
    """Mixes rows; see the module."""
    full = jnp.all(self.full)
    return jax.lax.cond(full, self.fft.mix, self.ragged.mix, x)

  def length_dft(self, a: Columns, b: Columns) -> tuple[Columns, Columns]:
    """Transforms columns; see the module."""
    full = jnp.all(self.full)
    return jax.lax.cond(full, self.fft.length_dft, self.ragged.length_dft, a, b)


MixingPlan = FFTPlan | MatricesPlan | FoldedPlan | BluesteinPlan | FullRowsPlan
