"""The plan of a batch: what is computed once, and shared by its layers."""

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
from fnet_t5x.fourier.methods import Lengths, Method, Scale, choose_ways
from fnet_t5x.fourier.plans import (
  BluesteinPlan,
  FFTPlan,
  FoldedPlan,
  FullRowsPlan,
  MatricesPlan,
  MixingPlan,
)
from fnet_t5x.fourier.scales import scale_factor, scaled

# Features that ways are chosen for where their number is not given.
_FEW_FEATURES = 1


def padded_plan(
  tokens: int,
  *,
  method: Method = 'auto',
  scale: Scale = 'ortho',
  embed: int | None = None,
  dtype: jnp.dtype = jnp.float32,
) -> FFTPlan | MatricesPlan:
  """Returns the plan of FNet's own mixing: whole rows, padding included.

  It fits any batch. Arguments are those of `make_mixing_plan`.
  """
  check_choice('scale', scale, Scale)
  ways = choose_ways(
    tokens, embed or _FEW_FEATURES, lengths='padded', method=method
  )
  embed_dft = _embed_dft(ways.features, scale, embed, dtype)
  if ways.length == 'fft':
    return FFTPlan(tokens, scale, embed_dft)
  cosine, sine = dft_matrices(tokens, tokens, tokens)
  matrices = jnp.stack([cosine, -sine]) * scale_factor(tokens, scale)
  return MatricesPlan(
    _materialize(matrices, dtype), embed_dft, ways.all_features
  )


def make_mixing_plan(
  segment_ids: Int[Array, 'batch length'] | Bool[Array, 'batch length'],
  positions: Int[Array, 'batch length'] | None = None,
  *,
  lengths: Lengths = 'exact',
  method: Method = 'auto',
  length_method: Method | None = None,
  scale: Scale = 'ortho',
  embed: int | None = None,
  dtype: jnp.dtype = jnp.float32,
) -> MixingPlan:
  """Chooses how to mix a batch, once, before the layers that share the plan.

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
    embed: features of what will be mixed: where they take matrices, those are
      made here too. None leaves them to each layer, and chooses as for few.
    dtype: of all matrices. bfloat16 halves their memory where activations are
      bfloat16; sums are float32 either way.

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
  if lengths == 'padded':
    return padded_plan(
      tokens, method=method, scale=scale, embed=embed, dtype=dtype
    )
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
    matrices = _segment_matrices(segment_ids, positions, scale, dtype)
    return MatricesPlan(matrices, embed_dft, ways.all_features)
  row_tokens = row_lengths(segment_ids.astype(bool))
  plan = _ragged_plan(ways, row_tokens, tokens, embed_dft, scale, dtype)
  if ways.full_rows is None:
    return plan
  if ways.full_rows.features != ways.features:
    embed_dft = _embed_dft(ways.full_rows.features, scale, embed, dtype)
  fft = FFTPlan(tokens, scale, embed_dft)
  return FullRowsPlan(row_tokens == tokens, fft, plan)


def row_lengths(
  real: Bool[Array, 'batch length'],
) -> Int[Array, ' batch']:
  """Returns the number of tokens up to the last real one, in each row."""
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
      "make_mixing_plan: length_method='fft' takes one segment a row; packed "
      "rows need 'matmul' or 'auto'"
    )


def _ragged_plan(ways, row_tokens, tokens, embed_dft, scale, dtype):
  """Returns the plan of rows that hold one segment each."""
  if ways.length == 'bluestein':
    chirp, kernel = shard_map_batch(
      functools.partial(make_chirp, length=tokens), row_tokens
    )
    kernel = scaled(kernel, row_tokens[:, None], scale)
    return BluesteinPlan(row_tokens, chirp, kernel, embed_dft)
  if ways.length == 'folded':
    matrices = make_folded_matrices(row_tokens, tokens)
    matrices = scaled(matrices, row_tokens[:, None, None, None], scale)
    matrices = _materialize(matrices, dtype)
    return FoldedPlan(tokens, row_tokens, matrices, embed_dft)
  positions = jnp.arange(tokens, dtype=jnp.int32)[None, :]
  segment_ids = (positions < row_tokens[:, None]).astype(jnp.int32)
  positions = jnp.broadcast_to(positions, segment_ids.shape)
  matrices = _segment_matrices(segment_ids, positions, scale, dtype)
  return MatricesPlan(matrices, embed_dft, ways.all_features)


def _embed_dft(method, scale, embed, dtype):
  if method == 'fft' or embed is None:
    return EmbedDFT(method, scale)
  matrices = make_embed_matrices(embed, scale)
  return EmbedDFT(method, scale, _materialize(matrices, dtype))


def _segment_matrices(segment_ids, positions, scale, dtype):
  """Returns cos and -sin of every row, [batch, 2, length, length]."""
  cosine, sine = segment_dft_matrices(segment_ids, positions)
  matrices = jnp.stack([cosine, -sine], axis=1)
  lengths = segment_lengths(segment_ids)[:, None, :, None]
  return _materialize(scaled(matrices, lengths, scale), dtype)


def _materialize(matrices, dtype):
  """Stops XLA recomputing them per use."""
  return jax.lax.optimization_barrier(matrices.astype(dtype))
