"""Causally masked Fourier mixing.

For real x of `embed` features, with positions p that count from 0 in each
example,

    y_n = s_n Re sum over m <= n of w^(p_n p_m) (x_m F_embed)
    w   = exp(-2 pi i / L),    s_n = 1 / sqrt((p_n + 1) embed)

m runs over the tokens of n's own example up to n (FNetAR, Lou et al. 2021,
arXiv 2107.10932, masks FNet's transform in this way). L is a fixed maximum
length, not that of the example, so that y_n never changes when tokens follow.
The sum has p_n + 1 terms, each of the same mean square: s_n keeps the mean
square of white noise, up to the factor 1/2 of FNet's real part, at every
position alike. A constant scale would not: the first tokens' would be smaller
by sqrt(L).

With C and S the cosines and sines of features, and c[n, m] and s[n, m] those of
2 pi p_n p_m / L, zero for m > n, y = s_n (c x C - s x S). Two ways, equal up to
rounding:

- 'matmul', c and s as matrices, [N, N] shared by all rows, or one per row if
  rows are packed. Cost per row: 4 N^2 (embed / 2 + 1) over tokens.
- 'fft', by n m = (n^2 + m^2 - (n - m)^2) / 2: with the chirp g_n =
  exp(-i pi n^2 / L), sum over m <= n of w^(n m) z_m = g_n (conj(g) * (g z))_n,
  a causal convolution. O(N log N), in float32; rows that are not packed.

The map is linear, and not symmetric as FNet's is: its transpose runs backward.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Complex, Float, Int

from fnet_t5x.fourier import half_spectrum, methods
from fnet_t5x.fourier.bluestein import convolution_size
from fnet_t5x.fourier.dft_matrix import MAX_LENGTH, reduced_angles
from fnet_t5x.fourier.embed_dft import EmbedDFT, make_embed_matrices
from fnet_t5x.fourier.methods import Method
from fnet_t5x.fourier.mixing import mix_shards
from fnet_t5x.fourier.plans import MatricesPlan
from fnet_t5x.fourier.precision import matmul, widen

Columns = Float[Array, 'batch length columns']
Activations = Float[Array, 'batch length embed']

# Minimum number of tokens per row from which 'auto' takes the FFT. Estimates,
# from the like of Toeplitz products, whose FFTs are a quarter of these:
# `python -m fnet_t5x.benchmarks.causal_mixing` measures both.
FFT_MIN_LENGTH = {'cpu': 1024, 'gpu': 2048, 'tpu': 8192}


# Of method and tokens; see `methods.choose_convolution`.
choose_method = functools.partial(
  methods.choose_convolution, 'fourier_method', FFT_MIN_LENGTH
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ChirpPlan:
  """A convolution by FFT; one of the plans of `plans.py`.

  Attributes:
    chirp: g_n, by which inputs are multiplied.
    output_chirp: g_n / sqrt(n + 1), by which outputs are.
    kernel: transform of conj(g) over the size of the convolution.
    embed_dft: the transform over features.
  """

  chirp: Complex[Array, ' length']
  output_chirp: Complex[Array, ' length']
  kernel: Complex[Array, ' size']
  embed_dft: EmbedDFT

  def specs(self, rows: PartitionSpec) -> 'ChirpPlan':
    """Returns the specs; all rows share the arrays."""
    del rows
    return jax.tree.map(lambda _: PartitionSpec(), self)

  def mix(self, x: Activations) -> Activations:
    """Mixes rows; see the module."""
    y, opposite = self.length_dft(*self.embed_dft.half(x))
    return half_spectrum.join(y, opposite, x.shape[-1]).astype(x.dtype)

  def length_dft(self, a: Columns, b: Columns) -> tuple[Columns, Columns]:
    """Returns c a - s b and c a + s b, each times s_n."""
    columns, length = a.shape[2], self.chirp.shape[0]
    a, b = widen(a), widen(b)
    # The mask leaves no symmetry between a - i b and a + i b.
    z = jax.lax.complex(
      jnp.concatenate([a, a], axis=2), jnp.concatenate([-b, b], axis=2)
    )
    # Move tokens to the last axis once, rather than around each FFT.
    z = jnp.swapaxes(z, 1, 2) * self.chirp[None, None]
    spectrum = jnp.fft.fft(z, n=self.kernel.shape[0]) * self.kernel[None, None]
    z = jnp.fft.ifft(spectrum)[..., :length] * self.output_chirp[None, None]
    y = jnp.swapaxes(z.real, 1, 2)
    return y[..., :columns], y[..., columns:]


CausalPlan = MatricesPlan | ChirpPlan


def make_causal_plan(
  length: int,
  segment_ids: Int[Array, 'batch length'] | None = None,
  positions: Int[Array, 'batch length'] | None = None,
  *,
  max_length: int,
  method: Method = 'auto',
  embed: int,
  dtype: jnp.dtype = jnp.float32,
) -> CausalPlan:
  """Makes the plan to mix a batch with, once for all layers.

  Args:
    length: tokens per row, padding included.
    segment_ids: 0 on padding, elsewhere one id per example; None if each row is
      one example, whose padding follows it: nothing before depends on it.
    positions: of each token in its example; given together with `segment_ids`.
    max_length: L; all examples must fit.
    method: see `choose_method`.
    embed: number of features.
    dtype: of all matrices; sums are float32 either way.

  Raises:
    ValueError: rows are longer than L, or L is too long for exact phases.
  """
  if max_length > MAX_LENGTH:
    raise ValueError(
      f'causal Fourier mixing: a maximum length of {max_length} is above '
      f'{MAX_LENGTH}, up to which phases are exact'
    )
  packed = segment_ids is not None
  if length > max_length and not packed:
    raise ValueError(
      f'causal Fourier mixing of {length} tokens is limited to '
      f'{max_length}: shorten the feature lengths, or raise the maximum length '
      'of the decoder (MAX_DECODER_LENGTH, or MAX_LENGTH of GPT-2)'
    )
  chosen = choose_method(method, length, packed=packed)
  if chosen == 'fft':
    embed_dft = _make_embed_dft(embed, methods.choose_method(method, embed))
    return _chirp_plan(length, max_length, embed_dft)
  features = methods.choose_method(method, embed, 'features')
  all_features = features == 'matmul' and methods.all_features_pay()
  if packed:
    visible = segment_ids[:, :, None] == segment_ids[:, None, :]
    visible &= (segment_ids > 0)[:, :, None]
    visible &= positions[:, :, None] >= positions[:, None, :]
  else:
    positions = jnp.arange(length, dtype=jnp.int32)
    visible = positions[:, None] >= positions[None, :]
  positions = positions.astype(jnp.int32)
  angles = reduced_angles(
    positions[..., :, None] * positions[..., None, :], max_length
  )
  matrices = jnp.stack([jnp.cos(angles), -jnp.sin(angles)], axis=-3)
  matrices *= causal_scale(positions)[..., None, :, None]
  matrices = jnp.where(visible[..., None, :, :], matrices, 0)
  # Stops XLA recomputing them per use.
  matrices = jax.lax.optimization_barrier(matrices.astype(dtype))
  return MatricesPlan(
    matrices, _make_embed_dft(embed, features, dtype), all_features
  )


def causal_scale(positions: Int[Array, '*shape']) -> Float[Array, '*shape']:
  """Returns 1 / sqrt(p + 1), the part of s_n that depends on the position."""
  return jax.lax.rsqrt((positions + 1).astype(jnp.float32))


def causal_mix(
  x: Activations, plan: CausalPlan, embed_axis: str | None = None
) -> Activations:
  """Mixes a batch according to `plan`; see the module.

  Composes with jit, vmap, grad, jvp, remat and scan. Under a mesh with a data
  axis each device transforms only its own rows. On padding of packed rows y is
  0; otherwise it has no meaning there.

  Args:
    x: the activations.
    plan: of `make_causal_plan`.
    embed_axis: the mesh axis that x's features are sharded over, if any.
  """
  # An explicit rule for the backward pass, as in `mixing.mix`: that of
  # `shard_map` would sum the gradients of equal replicas over all devices.
  return jax.lax.custom_linear_solve(
    lambda y: y,
    x,
    solve=lambda _, x: mix_shards(x, plan, embed_axis=embed_axis),
    transpose_solve=lambda _, y: mix_shards(
      y, plan_of_transpose(plan), embed_axis=embed_axis
    ),
  )


def plan_of_transpose(plan: CausalPlan) -> CausalPlan:
  """Returns the plan that mixes each token with those after it.

  For matrices A and B of `plans.py` those are their transposes. The transpose
  of a convolution is that with the filter reversed, whose transform is
  reversed, too.
  """
  if isinstance(plan, ChirpPlan):
    kernel = jnp.concatenate([plan.kernel[:1], plan.kernel[:0:-1]])
    return ChirpPlan(plan.output_chirp, plan.chirp, kernel, plan.embed_dft)
  return dataclasses.replace(plan, matrices=jnp.swapaxes(plan.matrices, -1, -2))


def causal_step(
  inputs: Activations,
  index: Int[Array, '...'],
  *,
  max_length: int,
  method: Method = 'auto',
) -> Float[Array, 'batch 1 embed']:
  """Returns y at one position per row, in one pass over the inputs so far.

  Both sums over tokens, then the transform of one token. Cost per row: 4 N D,
  and that transform.

  Args:
    inputs: x of positions 0, 1, ...; what follows the position is ignored, if
      finite.
    index: the position: a scalar, or one per row.
    max_length: L.
    method: of the transform over features.
  """
  index = index.reshape(-1, 1).astype(jnp.int32)
  places = jnp.arange(inputs.shape[1], dtype=jnp.int32)[None, :]
  angles = reduced_angles(index * places, max_length)
  weights = jnp.stack([jnp.cos(angles), -jnp.sin(angles)], axis=1)
  weights *= causal_scale(index)[:, None]
  weights = jnp.where((places <= index)[:, None], weights, 0)
  weights = jnp.broadcast_to(weights, (inputs.shape[0], *weights.shape[1:]))
  # In this order XLA's CPU backend reads the inputs as they lie in memory.
  pair = matmul('bmd,bcm->cbd', inputs, weights)
  method = methods.choose_method(method, inputs.shape[-1])
  y = EmbedDFT(method, 'ortho').real(pair[0][:, None], pair[1][:, None])
  return y.astype(inputs.dtype)


def _chirp_plan(length, period, embed_dft):
  positions = jnp.arange(length, dtype=jnp.int32)
  # n^2 mod 2L in integers: phases are exact up to the final rounding.
  angles = reduced_angles(positions * positions, 2 * period)
  chirp = jax.lax.complex(jnp.cos(angles), -jnp.sin(angles))
  kernel = jnp.fft.fft(jnp.conj(chirp), n=convolution_size(length))
  scaled = chirp * causal_scale(positions)
  return ChirpPlan(chirp, scaled, kernel, embed_dft)


def _make_embed_dft(embed, method, dtype=jnp.float32):
  """Returns the transform over features, divided by sqrt(embed)."""
  if method == 'fft':
    return EmbedDFT('fft', 'ortho')
  matrices = make_embed_matrices(embed, 'ortho').astype(dtype)
  return EmbedDFT('matmul', 'ortho', jax.lax.optimization_barrier(matrices))
