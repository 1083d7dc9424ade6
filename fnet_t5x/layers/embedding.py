"""Token embeddings, and position embeddings for encoders."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.partitioning import (
  logical_to_mesh_axes,
  param_with_axes,
  with_sharding_constraint,
)
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float, Int

from fnet_t5x.fourier import data_parallel

TABLE_AXES = ('vocab', 'embed')


class Embed(nn.Module):
  """A table with one vector per token id.

  Attributes:
    num_embeddings: number of ids.
    features: size of each vector.
    cast_input_dtype: dtype to cast ids to first, if any.
    dtype: of the output.
    attend_dtype: of `attend`; `dtype` by default.
    embedding_init: initializer of the table.
    axes: logical names of the table's axes.
    one_hot: whether to look ids up by a contraction with one-hot vectors, which
      costs `2 * vocab * embed` FLOPs per token in each pass. The values are the
      same. None, T5X's behaviour: only if the current rules shard the
      vocabulary over several devices, since a contraction keeps such a table
      sharded, and for a gather that is up to XLA.
  """

  num_embeddings: int
  features: int
  cast_input_dtype: jnp.dtype | None = None
  dtype: jnp.dtype = jnp.float32
  attend_dtype: jnp.dtype | None = None
  embedding_init: Initializer = nn.initializers.variance_scaling(
    1.0, 'fan_in', 'normal', out_axis=0
  )
  axes: tuple[str, str] = TABLE_AXES
  one_hot: bool | None = None

  def setup(self):
    self.embedding = param_with_axes(
      'embedding',
      self.embedding_init,
      (self.num_embeddings, self.features),
      jnp.float32,
      axes=self.axes,
    )

  def __call__(self, inputs: Int[Array, '...']) -> Float[Array, '... embed']:
    """Looks up each id.

    Raises:
      ValueError: if the ids are not integers.
    """
    if self.cast_input_dtype is not None:
      inputs = inputs.astype(self.cast_input_dtype)
    if not jnp.issubdtype(inputs.dtype, jnp.integer):
      raise ValueError(
        f'Embed: token ids must be integers, not {inputs.dtype}; cast them'
      )
    one_hot = _is_split(self.axes) if self.one_hot is None else self.one_hot
    if one_hot:
      one_hot = jax.nn.one_hot(inputs, self.num_embeddings, dtype=self.dtype)
      return jnp.dot(one_hot, self.embedding.astype(self.dtype))
    # Zeros for ids past the end of the table, as a one-hot contraction gives.
    output = self.embedding.at[inputs].get(mode='fill', fill_value=0)
    # Rows are cast, not the table: a frequent token's gradients are then summed
    # in float32. A sum in bfloat16 would lose most of them.
    output = output.astype(self.dtype)
    return with_sharding_constraint(output, ('batch', 'length', 'embed'))

  def attend(self, query: Float[Array, '... embed']) -> Float[Array, '... v']:
    """Returns the dot products of `query` with every vector of the table."""
    dtype = self.dtype if self.attend_dtype is None else self.attend_dtype
    return jnp.dot(query, self.embedding.astype(dtype).T)


def _is_split(table_axes: tuple[str, str]) -> bool:
  """Whether the current rules and mesh shard a table's ids."""
  axes = logical_to_mesh_axes(table_axes)[0]
  axes = (axes,) if axes is None or isinstance(axes, str) else axes
  return any(data_parallel.is_sharded(axis) for axis in axes)


class LearnedPositions(nn.Module):
  """A learned vector for each position.

  Attributes:
    max_length: number of positions.
    features: size of each vector.
    dtype: of the output.
    embedding_init: initializer of the table.
    row_axis: whether the table is stored as [1, max_length, features], as in
      FNet's checkpoints.
    limit: name of the setting behind `max_length`, for the error.
  """

  max_length: int
  features: int
  dtype: jnp.dtype = jnp.float32
  # The scale of token embeddings: Adafactor's updates are relative to a
  # parameter's RMS, so that a table with small entries would hardly learn.
  embedding_init: Initializer = nn.initializers.normal(stddev=1.0)
  row_axis: bool = False
  limit: str = 'max_encoder_length'

  @nn.compact
  def __call__(
    self, positions: Int[Array, 'rows length']
  ) -> Float[Array, 'rows length embed']:
    """Looks up each position.

    Raises:
      ValueError: if rows are longer than the table.
    """
    length = positions.shape[-1]
    if length > self.max_length:
      raise ValueError(
        f'encoder inputs of {length} tokens: learned positions are limited to '
        f'{self.limit}={self.max_length}; shorten the feature length or raise '
        f'{self.limit}'
      )
    shape, axes = (self.max_length, self.features), ('abspos_buckets', 'embed')
    if self.row_axis:
      shape, axes = (1, *shape), ('stack', *axes)
    embedding = param_with_axes(
      'embedding', self.embedding_init, shape, jnp.float32, axes=axes
    )
    table = embedding.astype(self.dtype).reshape(shape[-2:])
    return jnp.take(table, positions, 0, mode='clip')


def sinusoidal_positions(
  positions: Int[Array, 'rows length'],
  features: int,
  dtype: jnp.dtype = jnp.float32,
) -> Float[Array, 'rows length embed']:
  """Sinusoidal positions (1706.03762, section 3.5): sines, then cosines.

  Wave `i` of `h = (features + 1) // 2` has the angular frequency
  `10000 ** (-i / h)` per token.

  Args:
    positions: in tokens.
    features: size of each vector.
    dtype: of the result; angles are computed in float32.

  Returns:
    Values in [-1, 1].
  """
  half = (features + 1) // 2
  frequency = 10000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle = positions[..., None].astype(jnp.float32) * frequency[None, None]
  waves = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
  return waves[..., :features].astype(dtype)
