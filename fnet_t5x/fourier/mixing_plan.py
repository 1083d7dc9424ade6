"""Mixing plan of a batch: computed once, and shared by all layers."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from fnet_t5x.choices import check_choice
from fnet_t5x.fourier.bluestein import make_chirp
from fnet_t5x.fourier.data_parallel import shard_map_batch
from fnet_t5x.fourier.dft_matrix import (
  dft_matrices,
  segment_dft_matrices,
  segment_lengths,
)
from fnet_t5x.fourier.embed_dft import EmbedDFT, make_embed_matrices
from fnet_t5x.fourier.folded import make_folded_matrices
from fnet_t5x.fourier.methods import (
  Lengths,
  Method,
  Scale,
  Transform,
  choose_ways,
)
from fnet_t5x.fourier.plans import (
  BluesteinPlan,
  FFTPlan,
  FoldedPlan,
  FullRowsPlan,
  MatricesPlan,
  MixingPlan,
)
from fnet_t5x.fourier.scales import scale_factor, scaled

# Number of features to choose algorithms for if it is not given.
_FEW_FEATURES = 1


def padded_plan(
  tokens: int,
  *,
  transform: Transform = 'fourier',
  method: Method = 'auto',
  scale: Scale = 'ortho',
  embed: int | None = None,
  dtype: jnp.dtype = jnp.float32,
) -> FFTPlan | MatricesPlan:
  """Returns the plan of FNet's original mixing: whole rows with padding.

  It fits any batch. The arguments are those of `make_mixing_plan`.
  """
  check_choice('transform', transform, Transform)
  check_choice('scale', scale, Scale)
  ways = choose_ways(
    tokens, embed or _FEW_FEATURES, lengths='padded', method=method
  )
  embed_dft = _embed_dft(ways.features, scale, embed, dtype)
  if ways.length == 'fft':
    return FFTPlan(tokens, scale, embed_dft, transform)
  matrices = _pair(dft_matrices(tokens, tokens, tokens), transform, axis=0)
  matrices *= scale_factor(tokens, scale)
  return MatricesPlan(
    _materialize(matrices, dtype), embed_dft, ways.all_features
  )


def make_mixing_plan(
  segment_ids: Int[Array, 'batch length'] | Bool[Array, 'batch length'],
  positions: Int[Array, 'batch length'] | None = None,
  *,
  transform: Transform = 'fourier',
  lengths: Lengths = 'exact',
  method: Method = 'auto',
  length_method: Method | None = None,
  scale: Scale = 'ortho',
  embed: int | None = None,
  dtype: jnp.dtype = jnp.float32,
) -> MixingPlan:
  """Makes the plan to mix a batch with, once for all layers.

  Args:
    segment_ids: 0 (or False) on padding. Without `positions` each row is one
      segment: all tokens up to the last non-zero id, regardless of the ids.
      With `positions` rows are packed: equal ids are one segment.
    positions: position of every token within its segment, 0 .. segment length
      - 1, as from SeqIO's packing. None for rows that are not packed.
    transform: 'fourier' for Re(F_length x F_embed), 'hartley' for Re - Im of
      it; see `plans.py`.
    lengths: 'exact' transforms every segment over its own tokens, so that the
      result is invariant to padding and packing; 'padded' is FNet's original
      mixing, which ignores both arguments above.
    method: 'fft', 'matmul', or 'auto' to choose by backend and lengths.
    length_method: the same for the transform over each row's own tokens, where
      'fft' is Bluestein's algorithm and 'matmul' is one matrix per row; None
      for `method`. Packed rows always use matrices.
    scale: 'ortho' divides by sqrt(segment length * embed), 'none' does not.
    embed: number of features: if they are transformed by matrices, those are
      made here too. None leaves that to each layer, and chooses algorithms as
      for few features.
    dtype: of all matrices. bfloat16 halves their memory if activations are
      bfloat16; sums are float32 either way.

  Raises:
    ValueError: an unknown choice, shapes that differ, or Bluestein's algorithm
      for packed rows.
  """
  check_choice('lengths', lengths, Lengths)
  if segment_ids.ndim != 2:
    raise ValueError(
      f'make_mixing_plan: segment_ids is {segment_ids.shape}, '
      'not [batch, length]'
    )
  tokens = segment_ids.shape[1]
  if lengths == 'padded':
    return padded_plan(
      tokens,
      transform=transform,
      method=method,
      scale=scale,
      embed=embed,
      dtype=dtype,
    )
  check_choice('transform', transform, Transform)
  check_choice('scale', scale, Scale)
  packed = positions is not None
  if packed:
    _check_packed(segment_ids, positions, length_method)
  ways = choose_ways(
    tokens,
    embed or _FEW_FEATURES,
    packed=packed,
    method=method,
    length_method=length_method,
  )
  embed_dft = _embed_dft(ways.features, scale, embed, dtype)
  if packed:
    segment_ids = segment_ids.astype(jnp.int32)
    matrices = _segment_matrices(
      segment_ids, positions, transform, scale, dtype
    )
    return MatricesPlan(matrices, embed_dft, ways.all_features)
  row_tokens = row_lengths(segment_ids.astype(bool))
  plan = _ragged_plan(
    ways, row_tokens, tokens, embed_dft, transform, scale, dtype
  )
  if ways.full_rows is None:
    return plan
  if ways.full_rows.features != ways.features:
    embed_dft = _embed_dft(ways.full_rows.features, scale, embed, dtype)
  fft = FFTPlan(tokens, scale, embed_dft, transform)
  return FullRowsPlan(row_tokens == tokens, fft, plan)


def row_lengths(
  real: Bool[Array, 'batch length'],
) -> Int[Array, ' batch']:
  """Returns the number of tokens up to the last real one, per row."""
  ends = jnp.arange(1, real.shape[1] + 1, dtype=jnp.int32)[None, :]
  return jnp.max(jnp.where(real, ends, 0), axis=1)


def _check_packed(segment_ids, positions, length_method):
  if positions.shape != segment_ids.shape:
    raise ValueError(
      f'make_mixing_plan: positions is {positions.shape}, segment_ids '
      f'{segment_ids.shape}; they must be equal'
    )
  if length_method == 'fft':
    raise ValueError(
      "make_mixing_plan: length_method='fft' takes one segment per row; packed "
      "rows need 'matmul' or 'auto'"
    )


def _ragged_plan(ways, row_tokens, tokens, embed_dft, transform, scale, dtype):
  """Returns the plan of rows with one segment each."""
  if ways.length == 'bluestein':
    chirp, kernel = shard_map_batch(
      functools.partial(make_chirp, length=tokens), row_tokens
    )
    kernel = scaled(kernel, row_tokens[:, None], scale)
    return BluesteinPlan(row_tokens, chirp, kernel, embed_dft, transform)
  if ways.length == 'folded':
    matrices = make_folded_matrices(row_tokens, tokens)
    matrices = scaled(matrices, row_tokens[:, None, None, None], scale)
    matrices = _materialize(matrices, dtype)
    return FoldedPlan(tokens, row_tokens, matrices, embed_dft, transform)
  positions = jnp.arange(tokens, dtype=jnp.int32)[None, :]
  segment_ids = (positions < row_tokens[:, None]).astype(jnp.int32)
  positions = jnp.broadcast_to(positions, segment_ids.shape)
  matrices = _segment_matrices(segment_ids, positions, transform, scale, dtype)
  return MatricesPlan(matrices, embed_dft, ways.all_features)


def _embed_dft(method, scale, embed, dtype):
  if method == 'fft' or embed is None:
    return EmbedDFT(method, scale)
  matrices = make_embed_matrices(embed, scale)
  return EmbedDFT(method, scale, _materialize(matrices, dtype))


def _segment_matrices(segment_ids, positions, transform, scale, dtype):
  """Returns A and B of `plans.py` per row, [batch, 2, length, length]."""
  matrices = _pair(
    segment_dft_matrices(segment_ids, positions), transform, axis=1
  )
  lengths = segment_lengths(segment_ids)[:, None, :, None]
  return _materialize(scaled(matrices, lengths, scale), dtype)


def _pair(matrices, transform, axis):
  """Returns A and B of `plans.py`, stacked."""
  cosine, sine = matrices
  if transform == 'hartley':
    return jnp.stack([cosine + sine, cosine - sine], axis)
  return jnp.stack([cosine, -sine], axis)


def _materialize(matrices, dtype):
  """Stops XLA recomputing them per use."""
  return jax.lax.optimization_barrier(matrices.astype(dtype))
