"""What is worked out once a batch, and shared by all layers that mix it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float, Int

from fnet_t5x.fourier.bluestein import make_chirp
from fnet_t5x.fourier.data_parallel import map_rows
from fnet_t5x.fourier.dft_matrix import segment_dft_matrices, segment_lengths
from fnet_t5x.fourier.methods import (
  Lengths,
  Method,
  Scale,
  check_choice,
  choose_method,
)


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=('lengths', 'cosine', 'sine', 'chirp', 'kernel'),
  meta_fields=('tokens', 'method', 'scale'),
)
@dataclasses.dataclass(frozen=True)
class MixingPlan:
  """How to mix a batch. A pytree; its arrays all have the batch as axis 0.

  Attributes:
    lengths: real tokens of each row; None if padding is mixed like tokens, or
      if rows are packed.
    cosine: each row's length-axis matrix, None unless matrices are used for
      exact lengths; sine likewise.
    chirp: of `bluestein`, None unless it is used; kernel likewise.
    tokens: tokens a row holds, padding included.
    method: 'fft', 'matmul' or 'auto', for the whole transforms.
    scale: 'ortho' or 'none'.
  """

  lengths: Int[Array, ' batch'] | None
  cosine: Float[Array, 'batch length length'] | None
  sine: Float[Array, 'batch length length'] | None
  chirp: Complex[Array, 'batch length'] | None
  kernel: Complex[Array, 'batch size'] | None
  tokens: int
  method: Method
  scale: Scale

  @property
  def batch(self) -> int | None:
    """Rows the plan was made for; None if it fits any number."""
    leaves = jax.tree.leaves(self)
    return leaves[0].shape[0] if leaves else None


def padded_plan(
  tokens: int, *, method: Method = 'auto', scale: Scale = 'ortho'
) -> MixingPlan:
  """Returns the plan of FNet's own mixing: all `tokens` of a row, padding too.

  It holds no arrays and fits any batch.
  """
  check_choice('method', method, Method)
  check_choice('scale', scale, Scale)
  return MixingPlan(None, None, None, None, None, tokens, method, scale)


def make_mixing_plan(
  segment_ids: Int[Array, 'batch length'] | Bool[Array, 'batch length'],
  positions: Int[Array, 'batch length'] | None = None,
  *,
  lengths: Lengths = 'exact',
  method: Method = 'auto',
  length_method: Method | None = None,
  scale: Scale = 'ortho',
  dtype: jnp.dtype = jnp.float32,
) -> MixingPlan:
  """Works out how to mix a batch: once a batch, before the layers.

  Args:
    segment_ids: 0 (or False) on padding. Without `positions` a row is one
      segment: its tokens up to the last that is not 0, whatever their ids. With
      `positions` the row is packed: equal ids are one segment.
    positions: of every token within its segment, 0 .. segment length - 1; as
      SeqIO's packing writes them. None for rows that are not packed.
    lengths: 'exact' transforms every segment over its own tokens, so that
      neither padding nor neighbours change it; 'padded' is FNet's own, which
      ignores both arguments above.
    method: 'fft', 'matmul', or 'auto' for this backend and these lengths.
    length_method: the same for the transform over each row's own tokens, where
      'fft' is Bluestein's algorithm and 'matmul' is a matrix a row; None is
      `method`. Packed rows always use matrices.
    scale: 'ortho' divides by sqrt(segment length * embed), 'none' does not.
    dtype: of those matrices. bfloat16 halves their memory where activations
      are bfloat16; sums are float32 either way.

  Raises:
    ValueError: an unknown choice, shapes that differ, or Bluestein's algorithm
      asked of packed rows.
  """
  check_choice('lengths', lengths, Lengths)
  if segment_ids.ndim != 2:
    raise ValueError(
      f'make_mixing_plan: segment_ids is {segment_ids.shape}, '
      'not [batch, length]'
    )
  tokens = segment_ids.shape[1]
  plan = padded_plan(tokens, method=method, scale=scale)
  if lengths == 'padded':
    return plan
  if positions is not None:
    if positions.shape != segment_ids.shape:
      raise ValueError(
        f'make_mixing_plan: positions is {positions.shape}, segment_ids '
        f'{segment_ids.shape}; they must be equal'
      )
    if length_method == 'fft':
      raise ValueError(
        "make_mixing_plan: length_method='fft' takes one segment a row; packed "
        "rows need 'matmul' or 'auto'"
      )
    return _with_matrices(plan, segment_ids.astype(jnp.int32), positions, dtype)
  real = segment_ids.astype(bool)
  index = jnp.arange(tokens, dtype=jnp.int32)[None, :]
  row_lengths = jnp.max(jnp.where(real, index + 1, 0), axis=1)
  plan = dataclasses.replace(plan, lengths=row_lengths)
  length_method = choose_method(
    length_method or method, tokens, own_lengths=True
  )
  if length_method == 'matmul':
    mask = (index < row_lengths[:, None]).astype(jnp.int32)
    index = jnp.broadcast_to(index, mask.shape)
    return _with_matrices(plan, mask, index, dtype)
  chirp, kernel = map_rows(
    functools.partial(make_chirp, length=tokens), row_lengths
  )
  if scale == 'ortho':
    norm = jax.lax.rsqrt(jnp.maximum(row_lengths, 1).astype(jnp.float32))
    kernel = kernel * norm[:, None]
  return dataclasses.replace(plan, chirp=chirp, kernel=kernel)


def _with_matrices(plan, segment_ids, positions, dtype):
  cosine, sine = segment_dft_matrices(segment_ids, positions)
  if plan.scale == 'ortho':
    lengths = jnp.maximum(segment_lengths(segment_ids), 1)
    norm = jax.lax.rsqrt(lengths.astype(jnp.float32))[:, :, None]
    cosine, sine = cosine * norm, sine * norm
  return dataclasses.replace(
    plan, cosine=cosine.astype(dtype), sine=sine.astype(dtype)
  )
