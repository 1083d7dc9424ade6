"""FLOPs of generation by formula, from the sizes of the network.

Symbols are those of `flops`. A step generates one token of a row, and attends
to whole caches, masked where they are not yet filled. A step of T5 and the
hybrid, whose cache has c positions, takes per layer

    self-attention        8 D A + 4 c A
    cross-attention       4 D A + 4 n A          queries and output only
    feed-forward block    2 (g + 1) D M

and one of GPT-2 with a prompt of n tokens

    layer                 8 D^2 + 4 (n + c) D + 4 D M

and each then the output layer, 2 D V. The first token takes, before its step,
the encoder and the projection of its output to keys and values, 4 n D A per
layer of the decoder; for GPT-2 a pass over the prompt, of whose last layer only
keys and values are needed. Not counted: T5's prefill also runs the decoder over
one position, which the first step then repeats.
"""

import dataclasses
from typing import Any

from fnet_t5x.costs import flops


@dataclasses.dataclass(frozen=True)
class GenerationFlops:
  """FLOPs per row.

  Attributes:
    prefix: of reading the prefix, before the first step.
    step: of each step, with the first one.
    attention: the part of `prefix` that grows with its square: scores and
      averages of self-attention.
  """

  prefix: float
  step: float
  attention: float


def generation_flops(
  config: Any, prefix: int, tokens: int, backend: str = 'cpu'
) -> GenerationFlops:
  """Returns the FLOPs of generation from a full prefix.

  Args:
    config: a `T5Config`, `FNetT5Config` or `GPT2Config`.
    prefix: tokens per row that the generation continues.
    tokens: tokens per row to generate; sets the length of the caches.
    backend: see `flops.example_flops`.
  """
  embed = config.emb_dim
  output = 2.0 * embed * config.vocab_size
  if flops.is_decoder_only(config):
    mlp = config.feed_forward_width
    cached = prefix + tokens
    layer = 8.0 * embed**2 + 4.0 * cached * embed + 4.0 * embed * mlp
    whole = flops.decoder_only_flops(config, prefix).decoder
    others = whole * (config.num_layers - 1) / config.num_layers
    return GenerationFlops(
      prefix=others + 4.0 * prefix * embed**2,
      step=config.num_layers * layer + output,
      attention=(config.num_layers - 1) * 4.0 * prefix**2 * embed,
    )
  heads = config.num_heads * config.head_dim
  kernels = len(config.mlp_activations) + 1
  attended = flops.encoder_output_length(config, prefix, packed=False)
  layer = (
    8.0 * embed * heads
    + 4.0 * tokens * heads
    + 4.0 * embed * heads
    + 4.0 * attended * heads
    + 2.0 * kernels * embed * config.mlp_dim
  )
  encoder = flops.example_flops(
    config, prefix, 1, packed=False, backend=backend
  ).encoder
  projections = config.num_decoder_layers * 4.0 * attended * embed * heads
  attending = flops.layer_mixing(config).count('attention')
  return GenerationFlops(
    prefix=encoder + projections,
    step=config.num_decoder_layers * layer + output,
    attention=attending * 4.0 * prefix**2 * heads,
  )
