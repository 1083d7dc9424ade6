"""The networks to compare, and their sizes.

A network added to `NETWORKS` is measured in every section like the others.
GPT-2, which has no encoder, is measured where `DECODER_ONLY` is too.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any

from fnet_t5x.costs.matched_depth import nearest

if TYPE_CHECKING:
  import flax.linen as nn

# The sizes of T5's vocabulary, and of the toy's.
VOCAB_SIZE, TOY_VOCAB_SIZE = 32128, 512

_FIELDS = (
  'emb_dim',
  'num_heads',
  'head_dim',
  'mlp_dim',
  'num_encoder_layers',
  'num_decoder_layers',
)
# Those of gin/sizes; `toy` is smaller than any of them, and T5 `mini` has about
# 10M parameters with 8,192 ids.
SIZES = {
  'toy': dict(zip(_FIELDS, (64, 2, 32, 128, 4, 2), strict=True)),
  'mini': dict(zip(_FIELDS, (256, 4, 64, 512, 4, 4), strict=True)),
  'small': dict(zip(_FIELDS, (512, 6, 64, 1024, 8, 8), strict=True)),
  'base': dict(zip(_FIELDS, (768, 12, 64, 2048, 12, 12), strict=True)),
}


@dataclasses.dataclass(frozen=True)
class Network:
  """A network to compare.

  Attributes:
    name: name in the results.
    mixing: mixing of the encoder's layers below the attention layers at the
      top, as in gin/models/fnet_t5_base.gin; None for T5.
    attention_layers: number of attention layers.
    options: further fields of the configuration.
  """

  name: str
  mixing: str | None = None
  attention_layers: int = 2
  options: tuple[tuple[str, Any], ...] = ()

  def make(self, size: str, **fields: Any) -> nn.Module:
    """Returns the module, configured as the gin files do.

    Args:
      size: a key of `SIZES`.
      **fields: fields of the configuration: `dtype`, and others that override
        defaults, such as `dropout_rate` (0, as in pretraining), `scan_layers`
        (True), `vocab_size`, `num_encoder_layers`, and `max_encoder_length`
        (ignored by T5). `max_target_length` is for GPT-2.
    """
    from fnet_t5x.networks import fnet_t5, t5

    sizes = SIZES[size]
    fields = {
      'vocab_size': TOY_VOCAB_SIZE if size == 'toy' else VOCAB_SIZE,
      'mlp_activations': ('gelu', 'linear'),
      'dropout_rate': 0.0,
      'scan_layers': True,
      **sizes,
      **dict(self.options),
      **fields,
    }
    fields.pop('max_target_length', None)
    if self.mixing is None:
      fields.pop('max_encoder_length', None)
      return t5.Transformer(t5.T5Config(**fields))
    layout = fnet_t5.mixing_layout(
      fields['num_encoder_layers'], self.mixing, self.attention_layers
    )
    return fnet_t5.Transformer(
      fnet_t5.FNetT5Config(encoder_mixing=layout, **fields)
    )


@dataclasses.dataclass(frozen=True)
class DecoderOnlyNetwork:
  """GPT-2, as wide as T5 of a size and with as many parameters.

  Attributes:
    name: name in the results.
  """

  name: str

  def make(self, size: str, **fields: Any) -> nn.Module:
    """Returns the module.

    Args:
      size: a key of `SIZES`, whose heads and width it has. The feed-forward
        blocks are four times as wide, as published.
      **fields: as of `Network.make`. Layers are never scanned. There are
        positions for `max_encoder_length` and `max_target_length` tokens;
        `num_layers` is by default `matched_depth`.
    """
    from fnet_t5x.networks import gpt2

    sizes = SIZES[size]
    vocab_size = TOY_VOCAB_SIZE if size == 'toy' else VOCAB_SIZE
    fields = {'vocab_size': vocab_size, 'dropout_rate': 0.0, **fields}
    fields.pop('scan_layers', None)
    length = sum(
      fields.pop(name, 0)
      for name in ('max_encoder_length', 'max_target_length')
    )
    if 'num_layers' not in fields:
      fields['num_layers'] = matched_depth(self, size, fields['vocab_size'])
    return gpt2.GPT2(
      gpt2.GPT2Config(
        emb_dim=sizes['emb_dim'],
        num_heads=sizes['emb_dim'] // sizes['head_dim'],
        max_length=max(length, 1),
        **fields,
      )
    )


# In the order of measurement.
NETWORKS = {
  network.name: network
  for network in (
    Network('T5'),
    Network('hybrid', 'fourier'),
    # The hybrid without any mixing below its top layers.
    Network('control', 'none'),
  )
}
DECODER_ONLY = DecoderOnlyNetwork('GPT-2')
_PLAIN = (('attention_implementation', 'xla'),)
# Other implementations, and FNet's transform of the padded row.
VARIANTS = (
  Network('T5, plain attention', options=_PLAIN),
  Network('hybrid, plain attention', 'fourier', options=_PLAIN),
  Network('hybrid by matrices', 'fourier', 2, (('fourier_method', 'matmul'),)),
  Network('hybrid padded', 'fourier', 2, (('fourier_lengths', 'padded'),)),
)


def make(name: str, size: str, **fields: Any) -> nn.Module:
  """Returns `NETWORKS[name].make(size, ...)`."""
  return NETWORKS[name].make(size, **fields)


def make_matched(
  network: Network | DecoderOnlyNetwork, size: str, **fields: Any
) -> nn.Module:
  """Returns a network of a size with as many parameters as T5 of that size.

  Only the depth differs: that of the encoder, or of GPT-2.

  Args:
    network: the network.
    size: a key of `SIZES`.
    **fields: as of `Network.make`.
  """
  if isinstance(network, DecoderOnlyNetwork) or network.mixing is None:
    return network.make(size, **fields)
  vocab_size = fields.get(
    'vocab_size', TOY_VOCAB_SIZE if size == 'toy' else VOCAB_SIZE
  )
  depth = matched_depth(network, size, vocab_size)
  return network.make(size, **{**fields, 'num_encoder_layers': depth})


@functools.cache
def matched_depth(
  network: Network | DecoderOnlyNetwork, size: str, vocab_size: int
) -> int:
  """Returns the depth with which a network is nearest to T5's parameters.

  Args:
    network: the network.
    size: a key of `SIZES`.
    vocab_size: number of ids; T5 has two tables of them, GPT-2 one.
  """
  decoder_only = isinstance(network, DecoderOnlyNetwork)
  layers = 'num_layers' if decoder_only else 'num_encoder_layers'
  start = 1 if decoder_only else max(network.attention_layers, 1)

  def count(depth):
    made = network.make(size, vocab_size=vocab_size, **{layers: depth})
    return count_parameters(made)

  # Layers are equal, so two shallow networks determine the others.
  base, next_one = count(start), count(start + 1)
  return nearest(
    lambda depth: base + (depth - start) * (next_one - base),
    count_parameters(NETWORKS['T5'].make(size, vocab_size=vocab_size)),
    start,
  )


def count_parameters(module: nn.Module) -> int:
  """Returns a module's number of parameters, without learned positions.

  The number of those depends on the lengths that are measured.
  """
  import jax

  shapes = jax.eval_shape(
    lambda: module.init(
      jax.random.key(0), *example_tokens(module), enable_dropout=False
    )['params']
  )
  return sum(
    math.prod(leaf.shape)
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    if not any('position_embedder' in str(key) for key in path)
  )


def is_decoder_only(module: nn.Module) -> bool:
  """Whether a module reads its inputs as the beginning of its targets."""
  return not hasattr(module, 'encode')


def features_read(module: nn.Module) -> tuple[str, ...]:
  """Returns the features of a batch that a module's call takes, in order.

  Args:
    module: a `Transformer` of ours, GPT-2, or a network of another kind, which
      names its features as `FEATURES_READ`.
  """
  if hasattr(module, 'FEATURES_READ'):
    return module.FEATURES_READ
  decoded = ('decoder_input_tokens', 'decoder_target_tokens')
  if is_decoder_only(module):
    return decoded
  return ('encoder_input_tokens', *decoded)


def example_tokens(module: nn.Module) -> tuple[Any, ...]:
  """Returns tokens to initialise a module with.

  Shapes of parameters do not depend on those of tokens.
  """
  import jax.numpy as jnp

  tokens = jnp.ones((1, 1), jnp.int32)
  return (tokens,) * len(features_read(module))
