"""Multi-head attention (Vaswani et al. 2017, 1706.03762), T5's and BERT's."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.partitioning import with_sharding_constraint
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray

from fnet_t5x.layers import cache, fused_attention
from fnet_t5x.layers.dense import DenseGeneral
from fnet_t5x.layers.masks import LengthMask, combine_biases

# Added to the logits of masked pairs. Finite, so that a query that sees no key
# (padding) gets a uniform average instead of NaN.
MASKED_LOGIT = -1e10


def dot_product_attention(
  query: Float[Array, 'batch q_length heads kv'],
  key: Float[Array, 'batch kv_length heads kv']
  | Float[Array, 'batch heads kv kv_length'],
  value: Float[Array, 'batch kv_length heads kv']
  | Float[Array, 'batch heads kv kv_length'],
  bias: Float[Array, '#batch #heads #q_length kv_length'] | None = None,
  dropout_rng: PRNGKeyArray | None = None,
  dropout_rate: float = 0.0,
  deterministic: bool = False,
  dtype: jnp.dtype = jnp.float32,
  float32_logits: bool = False,
  length_last: bool = False,
  broadcast_dropout: bool = True,
) -> Float[Array, 'batch q_length heads kv']:
  """Computes `softmax(q k^T + bias) v` for each head.

  Logits are not divided by `sqrt(kv)`: T5 folds the scale into the query
  initializer, BERT's queries are divided before.

  Args:
    query: queries.
    key: keys.
    value: values.
    bias: added to the logits: masks, relative position biases.
    dropout_rng: PRNG key of the attention dropout.
    dropout_rate: fraction of (head, key) pairs to drop.
    deterministic: whether to skip dropout.
    dtype: of the attention weights and the output.
    float32_logits: whether to compute logits and softmax in float32.
    length_last: whether keys and values are [batch, heads, kv, kv_length].
    broadcast_dropout: whether all queries of a row drop the same pairs, as in
      T5; otherwise each drops its own, as in BERT.

  Returns:
    The attention output.
  """
  axes = 'bhdk' if length_last else 'bkhd'
  if float32_logits:
    query, key = query.astype(jnp.float32), key.astype(jnp.float32)
  logits = jnp.einsum(f'bqhd,{axes}->bhqk', query, key)
  if bias is not None:
    bias = bias.astype(logits.dtype)
    logits = logits + jnp.broadcast_to(bias, logits.shape)
  weights = jax.nn.softmax(logits).astype(dtype)
  if dropout_rate > 0.0 and not deterministic:
    keep_rate = 1.0 - dropout_rate
    batch, heads, queries, kv_length = weights.shape
    queries = 1 if broadcast_dropout else queries
    keep = jax.random.bernoulli(
      dropout_rng, keep_rate, (batch, heads, queries, kv_length)
    )
    weights = weights * (keep.astype(dtype) / jnp.asarray(keep_rate, dtype))
  return jnp.einsum(f'bhqk,{axes}->bqhd', weights, value)


class MultiHeadDotProductAttention(nn.Module):
  """Multi-head attention with its projections and a key/value cache.

  Attributes:
    num_heads: number of heads.
    head_dim: size of each head, the `kv` axis.
    dtype: of the computation.
    dropout_rate: of the attention weights.
    kernel_init: initializer of the projections.
    out_kernel_init: initializer of the output projection; None for
      `kernel_init`.
    float32_logits: whether to compute logits and softmax in float32.
    cross_attention: whether keys and values come from the encoder. The prefill
      then caches all of them at once, instead of one per decoding step.
    joined_kv: whether kernels store heads and kv as one axis, `joined_kv`.
    implementation: 'xla', 'cudnn', or 'auto'; see `fused_attention`. Calls that
      create, fill or read a cache always use XLA.
    use_bias: whether projections have biases, as in BERT.
    bias_init: initializer of the projections' biases.
    divide_query: whether queries are divided by sqrt(kv), as in BERT; otherwise
      their initial kernel is, as in T5.
    broadcast_dropout: see `dot_product_attention`.
  """

  num_heads: int
  head_dim: int
  dtype: jnp.dtype = jnp.float32
  dropout_rate: float = 0.0
  kernel_init: Initializer = nn.initializers.variance_scaling(
    1.0, 'fan_in', 'normal'
  )
  float32_logits: bool = False
  cross_attention: bool = False
  joined_kv: bool = True
  implementation: fused_attention.AttentionImplementation = 'auto'
  use_bias: bool = False
  bias_init: Initializer = nn.initializers.zeros
  divide_query: bool = False
  broadcast_dropout: bool = True
  out_kernel_init: Initializer | None = None

  @nn.compact
  def __call__(
    self,
    inputs_q: Float[Array, 'batch q_length embed'],
    inputs_kv: Float[Array, 'batch kv_length embed'],
    mask: Num[Array, 'batch #heads #q_length kv_length']  # noqa: F821
    | LengthMask
    | None = None,
    bias: Float[Array, '#batch heads q_length kv_length'] | None = None,
    *,
    decode: bool = False,
    deterministic: bool = False,
    prefill_lengths: Int[Array, ' batch'] | None = None,
  ) -> Float[Array, 'batch q_length embed']:
    """Attends from `inputs_q` to `inputs_kv`.

    Decoding makes three kinds of calls: `decode=True` without a cache creates
    one as long as `inputs_kv`; `prefill_lengths` fills it with prompts; and
    `decode=True` with a cache appends one token. See `layers.cache`.

    A cross-attention cache may have fewer rows than the queries: row `b` then
    serves queries `b * n, ..., b * n + n - 1` (the beams of one example).

    Args:
      inputs_q: activations projected to queries.
      inputs_kv: activations projected to keys and values. Ignored by
        cross-attention once its cache is filled.
      mask: non-zero where a query may see a key. cuDNN needs a `LengthMask`.
      bias: added to the attention logits.
      decode: whether to create or use the cache.
      deterministic: whether to skip dropout.
      prefill_lengths: prompt lengths; when given, the call is a prefill.

    Returns:
      The projected attention output.

    Raises:
      ValueError: if the inputs do not fit the cache, or cuDNN is requested
        where it cannot run.
    """
    heads = ('joined_kv',) if self.joined_kv else ('heads', 'kv')
    projection = functools.partial(
      DenseGeneral,
      features=(self.num_heads, self.head_dim),
      kernel_axes=('embed', *heads),
      dtype=self.dtype,
      use_bias=self.use_bias,
      bias_init=self.bias_init,
    )
    root = jnp.sqrt(self.head_dim).astype(self.dtype)

    def query_init(*args):
      return self.kernel_init(*args) / root

    def project(name, inputs, kernel_init=self.kernel_init):
      x = projection(kernel_init=kernel_init, name=name)(inputs)
      return with_sharding_constraint(x, ('batch', 'length', 'heads', 'kv'))

    lengths = mask
    if isinstance(mask, LengthMask):
      mask = mask.array
    if self.divide_query:
      query = project('query', inputs_q) / root
    else:
      query = project('query', inputs_q, query_init)
    cached = None
    if self.cross_attention and decode:
      cached = cache.load_cross_attention(self)
    if cached is None:
      key, value = project('key', inputs_kv), project('value', inputs_kv)
    else:
      key, value = cached

    if self.cross_attention:
      if prefill_lengths is not None:
        cache.store_cross_attention(self, key, value)
    elif prefill_lengths is not None:
      cache.prefill_self_attention(self, key, value, prefill_lengths)
    elif decode:
      key, value, mask = cache.step_self_attention(self, key, value, mask)

    rows = key.shape[0]
    if query.shape[0] != rows:
      query = query.reshape(rows, -1, *query.shape[2:])
      mask = mask.reshape(rows, 1, query.shape[1], mask.shape[-1])

    dropout = self.dropout_rate > 0.0 and not deterministic
    implementation = 'xla'
    if not decode and prefill_lengths is None:
      implementation = fused_attention.choose_implementation(
        self.implementation, query, key, lengths, bias, dropout
      )
    if implementation == 'cudnn':
      x = fused_attention.attend_by_lengths(query, key, value, lengths, bias)
    else:
      mask_bias = None
      if mask is not None:
        mask_bias = jnp.where(mask > 0, 0.0, MASKED_LOGIT).astype(self.dtype)
      x = dot_product_attention(
        query,
        key,
        value,
        bias=combine_biases(mask_bias, bias),
        dropout_rng=self.make_rng('dropout') if dropout else None,
        dropout_rate=self.dropout_rate,
        deterministic=deterministic,
        dtype=self.dtype,
        float32_logits=self.float32_logits,
        length_last=cached is not None,
        broadcast_dropout=self.broadcast_dropout,
      )
    x = x.reshape(*inputs_q.shape[:2], self.num_heads, self.head_dim)
    return DenseGeneral(
      features=inputs_q.shape[-1],
      axis=(-2, -1),
      kernel_init=self.out_kernel_init or self.kernel_init,
      kernel_axes=(*heads, 'embed'),
      dtype=self.dtype,
      use_bias=self.use_bias,
      bias_init=self.bias_init,
      name='out',
    )(x)
