"""FNet's Linear and Random mixing (2105.03824, section 4.1).

Both are `y = W x V`, with W over the tokens of a row and V over features. The
parameters of Linear have the published checkpoints' names and shapes.
`linear_mixing.py` is the variety of the encoder-decoder.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.partitioning import param_with_axes, with_sharding_constraint
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float, Int

from fnet_t5x.layers.linear_mixing import mix_tokens

_AXES = ('batch', 'encoder_length', 'embed')


def mix_by_matrices(
  x: Float[Array, 'batch length embed'],
  hidden_kernel: Float[Array, 'embed embed'],
  seq_kernel: Float[Array, 'max_length max_length'],
  segment_ids: Int[Array, 'batch length'] | None = None,
  positions: Int[Array, 'batch length'] | None = None,
) -> Float[Array, 'batch length embed']:
  """Returns `y_n = sum over m of seq_kernel[n, m] (x_m hidden_kernel)`.

  Args:
    x: activations.
    hidden_kernel: over features.
    seq_kernel: over tokens, at least as long as the rows; shorter rows use its
      upper left corner.
    segment_ids: None for the published sum over the whole row. With ids, it
      runs over each segment's own tokens; see `mix_tokens`.
    positions: see `mix_tokens`.

  Returns:
    The mixed activations.
  """
  x = x @ hidden_kernel.astype(x.dtype)
  kernel = seq_kernel.astype(x.dtype)
  if segment_ids is not None:
    return mix_tokens(kernel, x, segment_ids, positions)
  length = x.shape[1]
  return jnp.einsum('nm,bmd->bnd', kernel[:length, :length], x)


class LinearTransform(nn.Module):
  """Mixing by learned matrices.

  Attributes:
    max_length: size of the matrix over tokens.
    dtype: of the computation.
    kernel_init: initializer of both matrices.
  """

  max_length: int
  dtype: jnp.dtype = jnp.float32
  kernel_init: Initializer = nn.initializers.normal(0.02)

  @nn.compact
  def __call__(
    self,
    inputs: Float[Array, 'batch length embed'],
    segment_ids: Int[Array, 'batch length'] | None = None,
    positions: Int[Array, 'batch length'] | None = None,
  ) -> Float[Array, 'batch length embed']:
    """Mixes tokens; see `mix_by_matrices`."""
    embed = inputs.shape[-1]
    hidden_kernel = param_with_axes(
      'hidden_kernel',
      self.kernel_init,
      (embed, embed),
      jnp.float32,
      axes=('embed', 'mlp'),
    )
    seq_kernel = param_with_axes(
      'seq_kernel',
      self.kernel_init,
      (self.max_length, self.max_length),
      jnp.float32,
      axes=('length', 'abspos_buckets'),
    )
    x = mix_by_matrices(
      inputs.astype(self.dtype),
      hidden_kernel,
      seq_kernel,
      segment_ids,
      positions,
    )
    return with_sharding_constraint(x, _AXES)


class RandomTransform(nn.Module):
  """Mixing by matrices that are random, fixed, and no parameters.

  They are drawn from a seed as the published code draws them: checkpoints do
  not contain them, and mean nothing with others.

  Attributes:
    max_length: size of the matrix over tokens.
    layer: index of the layer in its encoder.
    seed: of all layers.
    dtype: of the computation.
  """

  max_length: int
  layer: int
  seed: int = 0
  dtype: jnp.dtype = jnp.float32

  def matrices(
    self, embed: int
  ) -> tuple[
    Float[Array, 'embed embed'], Float[Array, 'max_length max_length']
  ]:
    """Returns the matrices over features and over tokens."""
    # JAX's defaults of that time: other settings give other numbers.
    with jax.threefry_partitionable(False):
      key = jax.random.key(self.seed, impl='threefry2x32')
      # As data, so that XLA does not draw millions of numbers when compiling.
      key = jax.random.wrap_key_data(
        jax.lax.optimization_barrier(jax.random.key_data(key)),
        impl='threefry2x32',
      )
      for _ in range(self.layer + 1):
        key, layer_key = jax.random.split(key)
      hidden_key, seq_key = jax.random.split(layer_key)
      init = nn.initializers.lecun_normal()
      return (
        init(hidden_key, (embed, embed), jnp.float32),
        init(seq_key, (self.max_length, self.max_length), jnp.float32),
      )

  @nn.compact
  def __call__(
    self,
    inputs: Float[Array, 'batch length embed'],
    segment_ids: Int[Array, 'batch length'] | None = None,
    positions: Int[Array, 'batch length'] | None = None,
  ) -> Float[Array, 'batch length embed']:
    """Mixes tokens; see `mix_by_matrices`."""
    x = inputs.astype(self.dtype)
    matrices = self.matrices(inputs.shape[-1])
    x = mix_by_matrices(x, *matrices, segment_ids, positions)
    return with_sharding_constraint(x, _AXES)
