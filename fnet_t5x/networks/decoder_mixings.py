"""Causal mixings of decoders by name, in place of self-attention.

- `attention`: the network's own;
- `fourier`: causally masked Fourier mixing (after FNetAR, Lou et al. 2021,
  arXiv 2107.10932);
- `toeplitz`: learned filters over lags, one per head;
- `none`: no mixing, the control.

A decoder without attention knows positions by its mixing alone: T5's relative
position biases are attention's. Fourier weights depend on the positions of both
tokens, Toeplitz weights on their distance.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp
from flax import struct
from jax.nn.initializers import Initializer
from jaxtyping import Array, Int

from fnet_t5x.choices import check_choice
from fnet_t5x.fourier.causal import CausalPlan, make_causal_plan
from fnet_t5x.layers.causal_fourier_mixing import CausalFourierMixing
from fnet_t5x.layers.causal_toeplitz_mixing import CausalToeplitzMixing
from fnet_t5x.networks import mixing_places
from fnet_t5x.networks.segments import positions_of_segments
from fnet_t5x.networks.t5_config import Activations, Tokens

DecoderMixing = Literal['attention', 'fourier', 'toeplitz', 'none']


def decoder_mixing_layout(
  num_decoder_layers: int,
  mixing: DecoderMixing = 'attention',
  num_attention_layers: int = 0,
  layout: mixing_places.Layout = 'top',
) -> tuple[DecoderMixing, ...]:
  """Returns the mixing of each layer of a decoder, as `mixing_layout` does.

  Args:
    num_decoder_layers: depth of the decoder.
    mixing: of the layers without attention.
    num_attention_layers: number of layers with attention.
    layout: the place of those in the stack.

  Raises:
    ValueError: for an unknown name, or more attention layers than layers.
  """
  check_choice('mixing', mixing, DecoderMixing)
  chosen = mixing_places.attention_places(
    num_decoder_layers, num_attention_layers, layout
  )
  return tuple(
    'attention' if i in chosen else mixing for i in range(num_decoder_layers)
  )


def layer_names(
  decoder_mixing: Sequence[DecoderMixing] | None,
  num_decoder_layers: int,
  *,
  emb_dim: int,
  num_heads: int,
) -> tuple[DecoderMixing, ...]:
  """Returns a configuration's mixing of each decoder layer, checked.

  Args:
    decoder_mixing: one name per layer; None is attention everywhere.
    num_decoder_layers: depth of the decoder.
    emb_dim: width.
    num_heads: number of Toeplitz filters.

  Raises:
    ValueError: one name for all, an unknown name, a wrong number of names, or
      heads that do not divide the width where they must.
  """
  if decoder_mixing is None:
    return ('attention',) * num_decoder_layers
  if isinstance(decoder_mixing, str):
    raise ValueError(
      f'decoder_mixing={decoder_mixing!r} is one name; give one per layer, or '
      f'set DECODER_NON_ATTENTION_MIXING={decoder_mixing!r} for the layers '
      'without attention'
    )
  for mixing in decoder_mixing:
    check_choice('decoder_mixing', mixing, DecoderMixing)
  if len(decoder_mixing) != num_decoder_layers:
    raise ValueError(
      f'decoder_mixing names {len(decoder_mixing)} layers of '
      f'{num_decoder_layers} in the decoder; make them equal'
    )
  if 'toeplitz' in decoder_mixing and emb_dim % num_heads:
    raise ValueError(
      "decoder_mixing='toeplitz' has one filter per head: "
      f'emb_dim={emb_dim} must be a multiple of num_heads={num_heads}'
    )
  return tuple(decoder_mixing)


@struct.dataclass
class CausalInputs:
  """Per-batch inputs of causal mixings, computed once for all layers.

  Attributes:
    segment_ids: id of the example that each token belongs to, 0 on padding;
      None if each row is one example.
    plan: of the Fourier transform; None without Fourier layers.
  """

  segment_ids: Tokens | None
  plan: CausalPlan | None


def causal_inputs(
  config: Any,
  x: Activations,
  segment_ids: Tokens | None = None,
  positions: Tokens | None = None,
) -> CausalInputs:
  """Returns the inputs of a decoder's causal mixings.

  Args:
    config: an `FNetT5Config` or a `GPT2Config`.
    x: the decoder's activations, of which only the shape is used.
    segment_ids: id of the packed example of each token, 0 on padding.
    positions: of each token in its example; None derives it from the ids.

  Raises:
    ValueError: see `make_causal_plan`.
  """
  if segment_ids is not None:
    segment_ids = segment_ids.astype(jnp.int32)
    if positions is None:
      positions = positions_of_segments(segment_ids)
  plan = None
  if 'fourier' in config.decoder_layer_mixing:
    plan = make_causal_plan(
      x.shape[1],
      segment_ids,
      positions if segment_ids is not None else None,
      max_length=config.max_decoder_length,
      method=config.fourier_method,
      embed=config.emb_dim,
      dtype=config.dtype,
    )
  return CausalInputs(segment_ids, plan)


def _fourier(cfg, x, inputs, kernel_init, caching):
  del kernel_init
  module = CausalFourierMixing(
    cfg.max_decoder_length, cfg.fourier_method, name='fourier'
  )
  return module(x, inputs.plan, **caching)


def _toeplitz(cfg, x, inputs, kernel_init, caching):
  module = CausalToeplitzMixing(
    num_heads=cfg.num_heads,
    max_length=cfg.max_decoder_length,
    filter=cfg.toeplitz_filter,
    method=cfg.toeplitz_method,
    dtype=cfg.dtype,
    name='toeplitz',
    **kernel_init,
  )
  return module(x, inputs.segment_ids, **caching)


# Of all layers but those of attention and 'none'.
_MIXINGS: Mapping[str, Callable[..., Activations]] = {
  'fourier': _fourier,
  'toeplitz': _toeplitz,
}


def mix(
  config: Any,
  mixing: DecoderMixing,
  x: Activations,
  inputs: CausalInputs,
  *,
  kernel_init: Initializer | None = None,
  decode: bool = False,
  prefill_lengths: Int[Array, ' batch'] | None = None,
) -> Activations:
  """Creates and applies the mixing of a layer, in its compact method.

  Args:
    config: an `FNetT5Config` or a `GPT2Config`.
    mixing: its name, neither 'attention' nor 'none'.
    x: activations.
    inputs: of `causal_inputs`.
    kernel_init: of projections; None for the mixing's own.
    decode: whether to create or use the cache.
    prefill_lengths: prompt lengths; when given, the call is a prefill.
  """
  kernel_init = {} if kernel_init is None else {'kernel_init': kernel_init}
  caching = {'decode': decode, 'prefill_lengths': prefill_lengths}
  return _MIXINGS[mixing](config, x, inputs, kernel_init, caching)
