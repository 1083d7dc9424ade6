"""cuDNN's fused attention, and the choice between it and XLA.

cuDNN's kernel computes logits, softmax and output in one pass, with no array
[batch, heads, q_length, kv_length] in memory; its softmax is in float32. It
supports padding by length, causality and an additive bias, but no other masks;
and its dropout drops single weights, where T5 drops a key for all queries of a
row.
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

# Ampere (A100), the oldest generation that cuDNN's kernel supports.
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
  """Computes `softmax(q k^T + bias) v` for rows with trailing padding only.

  Equal to `attention.dot_product_attention` wherever the query is a token; on
  padding, both return finite values without meaning.

  Args:
    query: queries.
    key: keys.
    value: values.
    mask: keys that queries may see; None for all.
    bias: added to the logits.
    implementation: of `jax.nn.dot_product_attention`.

  Returns:
    The attention output, in the dtype of the queries.
  """
  lengths = None
  if mask is not None:
    # Softmax over no keys is undefined: rows that only fill a batch see one.
    lengths = jnp.maximum(mask.key_lengths, 1).astype(jnp.int32)
  return jax.nn.dot_product_attention(
    query,
    key,
    value,
    bias=None if bias is None else bias.astype(query.dtype),
    scale=1.0,  # T5 folds it into the query initializer.
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
  """Resolves 'auto': cuDNN where it computes the same result, else XLA.

  That is on one CUDA GPU of the Ampere generation or later, in bfloat16 or
  float16, without dropout, for rows that are not packed. On several devices
  'auto' is XLA, since partitioned cuDNN calls are untested; 'cudnn' allows
  them.

  Args:
    asked: 'xla' is returned unchanged.
    query: queries; only their dtype and shape matter, as for the others.
    key: keys.
    mask: keys that queries may see. A plain array always means XLA.
    bias: learned biases. cuDNN has gradients only for those all rows share.
    dropout: whether this call drops out attention weights.

  Raises:
    ValueError: if 'cudnn' is requested where it cannot run; the message says
      why.
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
  """Says why cuDNN cannot compute this and what to change, or None."""
  capability = cuda_capability()
  if capability is None:
    return f'needs a CUDA GPU; the backend is {current_backend()}'
  if capability < MIN_CAPABILITY:
    return (
      f'needs compute capability {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]}; this '
      f'GPU has {capability[0]}.{capability[1]}'
    )
  if query.dtype not in (jnp.bfloat16, jnp.float16):
    return (
      f'activations are {query.dtype}, and cuDNN supports bfloat16 and '
      "float16: set ACTIVATION_DTYPE = 'bfloat16'"
    )
  head_dim = query.shape[-1]
  if head_dim % 8 or head_dim > MAX_HEAD_DIM:
    return (
      f'HEAD_DIM={head_dim} must be a multiple of 8, at most {MAX_HEAD_DIM}'
    )
  if dropout:
    return (
      "its dropout differs from T5's, which drops a key for all queries: set "
      'DROPOUT_RATE = 0.0'
    )
  if mask is not None and not isinstance(mask, LengthMask):
    return 'it supports padding, but not packed rows: set PACK = False'
  if bias is not None:
    if bias.shape[0] != 1 or bias.shape[1] != query.shape[2]:
      return (
        f'it has no gradient for a bias of shape {bias.shape}: the first two '
        f'axes must be (1, {query.shape[2]}), one bias per head for all rows'
      )
    if query.shape[1] % 2 or key.shape[1] % 2:
      return (
        f'with a bias, lengths must be even, not {query.shape[1]} and '
        f'{key.shape[1]} tokens'
      )
  return None


def cuda_capability() -> tuple[int, int] | None:
  """Returns the compute capability of the traced CUDA GPU, or None."""
  if not current_backend() == jax.default_backend() == 'gpu':
    return None
  # On GPUs of other vendors it is a name, such as gfx90a.
  text = str(getattr(jax.local_devices()[0], 'compute_capability', ''))
  major, _, minor = text.partition('.')
  if not (major.isdecimal() and minor.isdecimal()):
    return None
  return int(major), int(minor)


def _on_several_devices() -> bool:
  mesh = data_parallel.context_mesh()
  return mesh is not None and mesh.size > 1
