"""Attention by cuDNN, and the choice between it and XLA.

cuDNN's kernel computes logits, softmax and averages in one pass, without an
array [batch, heads, q_length, kv_length] in memory; softmax is in float32. It
knows padding by lengths and causality, and adds a bias, but takes no other
masks, and drops out single weights where T5 drops a key for all queries of a
row at once.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fnet_t5x.backend import current_backend
from fnet_t5x.choices import check_choice
from fnet_t5x.fourier import data_parallel
from fnet_t5x.layers.masks import LengthMask

AttentionImplementation = Literal['auto', 'xla', 'cudnn']

# What every card that cuDNN's kernel runs on has, an A100 and later.
MIN_CAPABILITY = (8, 0)
MAX_HEAD_DIM = 128


def attend_by_lengths(
  query: Float[Array, 'batch q_length heads kv'],
  key: Float[Array, 'batch kv_length heads kv'],
  value: Float[Array, 'batch kv_length heads kv'],
  mask: LengthMask | None = None,
  bias: Float[Array, '#batch heads q_length kv_length'] | None = None,
  implementation: Literal['xla', 'cudnn'] = 'cudnn',
) -> Float[Array, 'batch q_length heads kv']:
  """`softmax(q k^T + bias) v` for rows whose padding follows their tokens.

  Equal to `attention.dot_product_attention` where a query is no padding;
  elsewhere values are finite, and of no use either way.

  Args:
    query: queries.
    key: keys.
    value: values.
    mask: what queries may see; None for everything.
    bias: added to the logits.
    implementation: of `jax.nn.dot_product_attention`.

  Returns:
    The attended values, in the dtype of the queries.
  """
  lengths = None
  if mask is not None:
    # A row without any token (a batch filled up) has no softmax.
    lengths = jnp.maximum(mask.key_lengths, 1).astype(jnp.int32)
  return jax.nn.dot_product_attention(
    query,
    key,
    value,
    bias=None if bias is None else bias.astype(query.dtype),
    scale=1.0,  # T5 folds it into the initial queries.
    is_causal=mask is not None and mask.causal,
    key_value_seq_lengths=lengths,
    implementation=implementation,
  )


def choose_implementation(
  asked: AttentionImplementation,
  query: Float[Array, 'batch q_length heads kv'],
  key: Float[Array, 'batch kv_length heads kv'],
  mask: LengthMask | Array | None,
  bias: Float[Array, '#batch heads q_length kv_length'] | None,
  dropout: bool,
) -> Literal['xla', 'cudnn']:
  """Resolves 'auto': cuDNN where it computes the same, else XLA.

  That is on one CUDA GPU from the Ampere generation on, in bfloat16 or
  float16, without dropout, for rows that are not packed. On several devices
  'auto' is XLA: how cuDNN's calls are split over them has not been tried;
  'cudnn' takes them.

  Args:
    asked: 'xla' is returned as it is.
    query: queries; dtype and shape count, as of the others.
    key: keys.
    mask: what queries may see. An array of any form is XLA's.
    bias: learned biases. Those that all rows share have a gradient.
    dropout: whether attention weights are dropped out in this call.

  Raises:
    ValueError: 'cudnn' is asked for where it cannot be; the message says why.
  """
  check_choice('attention_implementation', asked, AttentionImplementation)
  if asked == 'xla':
    return 'xla'
  obstacle = _obstacle(query, key, mask, bias, dropout)
  if asked == 'cudnn':
    if obstacle:
      raise ValueError(f"attention_implementation='cudnn': {obstacle}")
    return 'cudnn'
  return 'xla' if obstacle or _on_several_devices() else 'cudnn'


def _obstacle(query, key, mask, bias, dropout) -> str | None:
  """Why cuDNN cannot compute this, and what to change; None: it can."""
  capability = cuda_capability()
  if capability is None:
    return f'needs a CUDA GPU, and this is a {current_backend()}'
  if capability < MIN_CAPABILITY:
    return (
      f'needs compute capability {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]}, and '
      f'this GPU has {capability[0]}.{capability[1]}'
    )
  if query.dtype not in (jnp.bfloat16, jnp.float16):
    return (
      f'activations are {query.dtype}, and it takes bfloat16 and float16: '
      "set ACTIVATION_DTYPE = 'bfloat16'"
    )
  head_dim = query.shape[-1]
  if head_dim % 8 or head_dim > MAX_HEAD_DIM:
    return f'HEAD_DIM={head_dim} is not a multiple of 8 up to {MAX_HEAD_DIM}'
  if dropout:
    return (
      'it does not drop a key for all queries at once, as T5 does: set '
      'DROPOUT_RATE = 0.0'
    )
  if mask is not None and not isinstance(mask, LengthMask):
    return 'it knows padding by lengths, but no packed rows: set PACK = False'
  if bias is not None:
    if bias.shape[0] != 1 or bias.shape[1] != query.shape[2]:
      return (
        f'a bias of shape {bias.shape} has no gradient there, but one for all '
        f'rows and each of {query.shape[2]} heads'
      )
    if query.shape[1] % 2 or key.shape[1] % 2:
      return (
        f'lengths of {query.shape[1]} and {key.shape[1]} tokens with a bias: '
        'both must be even'
      )
  return None


def cuda_capability() -> tuple[int, int] | None:
  """Compute capability of the GPU that programs are traced for, if it is."""
  if not current_backend() == jax.default_backend() == 'gpu':
    return None
  # Of another make it is a name, such as gfx90a.
  text = str(getattr(jax.local_devices()[0], 'compute_capability', ''))
  major, _, minor = text.partition('.')
  if not (major.isdecimal() and minor.isdecimal()):
    return None
  return int(major), int(minor)


def _on_several_devices() -> bool:
  mesh = data_parallel.context_mesh()
  return mesh is not None and mesh.size > 1
