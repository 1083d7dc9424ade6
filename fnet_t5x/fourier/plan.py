"""What is worked out once a batch, and shared by all layers that mix it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Complex, Float, Int

from fnet_t5x.fourier.bluestein import make_chirp
from fnet_t5x.fourier.data_parallel import map_rows
from fnet_t5x.fourier.dft_matrix import (
  dft_matrices,
  segment_dft_matrices,
  segment_lengths,
)
from fnet_t5x.fourier.folded import make_folded_matrices
from fnet_t5x.fourier.methods import (
  Lengths,
  Method,
  Scale,
  check_choice,
  choose_method,
)

# What all rows of a batch share; everything else has the batch as axis 0.
_SHARED = ('over_length', 'over_embed')


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=('lengths', 'matrices', 'folded', 'chirp', 'kernel', *_SHARED),
  meta_fields=('tokens', 'method', 'scale'),
)
@dataclasses.dataclass(frozen=True)
class MixingPlan:
  """How to mix a batch. A pytree.

  Attributes:
    tokens: tokens a row holds, padding included.
    method: 'fft', 'matmul' or 'auto', for the whole transforms.
    scale: 'ortho' or 'none'.
    lengths: real tokens of each row; None if padding is mixed like tokens, or
      if rows are packed.
    matrices: each row's cos and -sin over its tokens, None unless matrices are
      used for exact lengths.
    folded: the same for half of each row's length (`folded.py`), None unless
      they are used.
    chirp: of `bluestein`, None unless it is used; kernel likewise.
    over_length: the cos and -sin that all rows share, None if they do not.
    over_embed: cos and sin over the features, None if they are not made
      beforehand.

  Whatever it holds has scale 'ortho' in it: 1 / sqrt(length) or 1 /
  sqrt(embed).
  """

  tokens: int
  method: Method
  scale: Scale
  lengths: Int[Array, ' batch'] | None = None
  matrices: Float[Array, 'batch 2 length length'] | None = None
  folded: Float[Array, 'batch 2 half half'] | None = None
  chirp: Complex[Array, 'batch length'] | None = None
  kernel: Complex[Array, 'batch size'] | None = None
  over_length: Float[Array, '2 length length'] | None = None
  over_embed: Float[Array, '2 embed embed'] | None = None

  @property
  def batch(self) -> int | None:
    """Rows the plan was made for; None if it fits any number."""
    for x in (self.lengths, self.matrices):
      if x is not None:
        return x.shape[0]
    return None

  def specs(self, rows: PartitionSpec) -> 'MixingPlan':
    """Returns how each array is laid out where the batch is as `rows` says."""
    return dataclasses.replace(
      self,
      **{
        field.name: PartitionSpec() if field.name in _SHARED else rows
        for field in dataclasses.fields(self)
        if isinstance(getattr(self, field.name), jax.Array)
      },
    )


def padded_plan(
  tokens: int,
  *,
  method: Method = 'auto',
  scale: Scale = 'ortho',
  embed: int | None = None,
  dtype: jnp.dtype = jnp.float32,
) -> MixingPlan:
  """Returns the plan of FNet's own mixing: all `tokens` of a row, padding too.

  It fits any batch. Arguments are those of `make_mixing_plan`.
  """
  plan = _empty_plan(tokens, method, scale, embed, dtype)
  if choose_method(method, tokens) == 'fft':
    return plan
  cosine, sine = dft_matrices(tokens, tokens, tokens)
  matrices = jnp.stack([cosine, -sine]) * scale_factor(tokens, scale)
  return dataclasses.replace(plan, over_length=_made(matrices, dtype))


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
    embed: features of what will be mixed: where they take matrices, those are
      made here too. None leaves them to each layer.
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
  plan = _empty_plan(tokens, method, scale, embed, dtype)
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
    return _with_matrices(
      plan, segment_ids.astype(jnp.int32), positions, embed, dtype
    )
  real = segment_ids.astype(bool)
  of_rows = row_lengths(real)
  plan = dataclasses.replace(plan, lengths=of_rows)
  if choose_method(length_method or method, tokens, 'rows') == 'matmul':
    if choose_method(method, embed or 1, 'features') == 'fft':
      return _with_folded_matrices(plan, dtype)
    index = jnp.arange(tokens, dtype=jnp.int32)[None, :]
    mask = (index < of_rows[:, None]).astype(jnp.int32)
    index = jnp.broadcast_to(index, mask.shape)
    return _with_matrices(plan, mask, index, embed, dtype)
  chirp, kernel = map_rows(
    functools.partial(make_chirp, length=tokens), of_rows
  )
  if scale == 'ortho':
    kernel = kernel * _norm(of_rows)[:, None]
  return dataclasses.replace(plan, chirp=chirp, kernel=kernel)


def row_lengths(
  real: Bool[Array, 'batch length'],
) -> Int[Array, ' batch']:
  """Returns the number of tokens up to the last real one, in each row."""
  ends = jnp.arange(1, real.shape[1] + 1, dtype=jnp.int32)[None, :]
  return jnp.max(jnp.where(real, ends, 0), axis=1)


def make_embed_matrices(
  embed: int, scale: Scale
) -> Float[Array, '2 embed embed']:
  """Returns cos and sin of 2 pi i j / embed, scaled."""
  matrices = jnp.stack(dft_matrices(embed, embed, embed))
  return matrices * scale_factor(embed, scale)


def scale_factor(points: int, scale: Scale) -> float:
  """Returns what `scale` multiplies a transform of `points` points by."""
  return points**-0.5 if scale == 'ortho' else 1.0


def _norm(lengths):
  """The same for 'ortho' and the lengths of rows."""
  return jax.lax.rsqrt(jnp.maximum(lengths, 1).astype(jnp.float32))


def _empty_plan(tokens, method, scale, embed, dtype):
  check_choice('method', method, Method)
  check_choice('scale', scale, Scale)
  plan = MixingPlan(tokens, method, scale)
  return _with_over_embed(plan, embed, 'whole', dtype)


def _with_over_embed(plan, embed, kind, dtype):
  if embed is None or choose_method(plan.method, embed, kind) == 'fft':
    return plan
  matrices = make_embed_matrices(embed, plan.scale)
  return dataclasses.replace(plan, over_embed=_made(matrices, dtype))


def _with_folded_matrices(plan, dtype):
  matrices = make_folded_matrices(plan.lengths, plan.tokens)
  if plan.scale == 'ortho':
    matrices = matrices * _norm(plan.lengths)[:, None, None, None]
  return dataclasses.replace(plan, folded=_made(matrices, dtype))


def _with_matrices(plan, segment_ids, positions, embed, dtype):
  plan = _with_over_embed(plan, embed, 'features', dtype)
  cosine, sine = segment_dft_matrices(segment_ids, positions)
  matrices = jnp.stack([cosine, -sine], axis=1)
  if plan.scale == 'ortho':
    norm = _norm(segment_lengths(segment_ids))
    matrices = matrices * norm[:, None, :, None]
  return dataclasses.replace(plan, matrices=_made(matrices, dtype))


def _made(matrices, dtype):
  """Has them in memory: XLA would make them anew in every product of each."""
  return jax.lax.optimization_barrier(matrices.astype(dtype))
