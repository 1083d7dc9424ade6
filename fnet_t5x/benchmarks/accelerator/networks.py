"""The networks to compare, and their sizes.

A network added to `NETWORKS` is measured in every section like the others.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

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
# Those of gin/sizes; `toy` is smaller than any of them.
SIZES = {
  'toy': dict(zip(_FIELDS, (64, 2, 32, 128, 4, 2), strict=True)),
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
        (True), `vocab_size` and `max_encoder_length` (ignored by T5).
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
    if self.mixing is None:
      fields.pop('max_encoder_length', None)
      return t5.Transformer(t5.T5Config(**fields))
    layout = fnet_t5.mixing_layout(
      sizes['num_encoder_layers'], self.mixing, self.attention_layers
    )
    return fnet_t5.Transformer(
      fnet_t5.FNetT5Config(encoder_mixing=layout, **fields)
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
