"""The encoders to compare: FNet, its relatives, and BERT, by name and size."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from fnet_t5x.networks.fnet import FNet

BASELINE = 'BERT'
# Mixing of the layers below, and number of attention layers at the top.
ENCODERS = {
  BASELINE: ('attention', 0),
  'Linear': ('linear', 0),
  'FNet-Hybrid': ('fourier', 2),
  'FNet': ('fourier', 0),
  'FF-only': ('none', 0),
}
SIZES = {
  'toy': {'vocab_size': 64, 'emb_dim': 16, 'mlp_dim': 32, 'num_heads': 2},
  'base': {'emb_dim': 768, 'mlp_dim': 3072, 'num_heads': 12},
  'large': {'emb_dim': 1024, 'mlp_dim': 4096, 'num_heads': 16},
}
LAYERS = {'toy': 2, 'base': 12, 'large': 24}


def make_network(
  name: str, size: str, layers: int, length: int, dtype: str
) -> FNet:
  """Returns one of `ENCODERS`, with positions for `length` tokens."""
  import jax.numpy as jnp

  from fnet_t5x.networks import fnet, fnet_t5

  mixing, attention_layers = ENCODERS[name]
  layout = fnet_t5.mixing_layout(layers, mixing, min(attention_layers, layers))
  config = fnet.FNetConfig(
    layer_mixing=layout,
    num_layers=layers,
    max_length=length,
    dtype=jnp.dtype(dtype),
    dropout_rate=0.0,
    **SIZES[size],
  )
  return fnet.FNet(config)
