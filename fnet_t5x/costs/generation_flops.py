"""FLOPs of generation by formula, from the sizes of the network.

Symbols are those of `flops`. A step generates one token of a row, and attends
to whole caches, masked where they are not yet filled. A step of T5 and the
hybrid, whose cache has c positions, takes per layer

    self-attention        8 D A + 4 c A
    cross-attention       4 D A + 4 n A          queries and output only
    feed-forward block    2 (g + 1) D M

and one of GPT-2 with a prompt of n tokens

    layer                 8 D^2 + 4 (n + c) D + 4 D M

and each then the output layer, 2 D V. Causal mixings in place of self-attention
(8 D A + 4 c A, or 8 D^2 + 4 (n + c) D) take, of so many positions in the cache,
c of them:

    Fourier               4 c D, and 5 D log2 D by FFT or 4 D^2 by matrices
    Toeplitz              2 D^2 + 2 c D

The first token takes, before its step, the encoder and the projection of its
output to keys and values, 4 n D A per layer of the decoder; for GPT-2 a pass
over the prompt, of whose last layer with a cache only what it caches is needed.
Not counted: T5's prefill also runs the decoder over one position, which the
first step then repeats.
"""

import dataclasses
import math
from typing import Any

from fnet_t5x.costs import flops
from fnet_t5x.fourier import methods


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
  names = flops.decoder_mixing(config)
  if flops.is_decoder_only(config):
    cached = prefix + tokens
    # Of a step's mixing, and of what the prompt's last layer caches.
    mixing = {
      **_mixing_steps(config, cached, backend),
      'attention': 8.0 * embed**2 + 4.0 * cached * embed,
    }
    # Compilers drop what follows it: nothing reads it.
    caching = [i for i, name in enumerate(names) if name != 'none']
    last = caching[-1] if caching else 0
    cached_by = {'attention': 4.0, 'toeplitz': 2.0}.get(names[last], 0.0)
    others = [
      flops.decoder_only_layer(
        name, config, prefix, packed=False, backend=backend
      )
      for name in names[:last]
    ]
    feed_forward = 4.0 * embed * config.feed_forward_width
    return GenerationFlops(
      prefix=sum(map(sum, others)) + cached_by * prefix * embed**2,
      step=sum(mixing[name] + feed_forward for name in names) + output,
      attention=names[:last].count('attention') * 4.0 * prefix**2 * embed,
    )
  heads = config.num_heads * config.head_dim
  kernels = len(config.mlp_activations) + 1
  attended = flops.encoder_output_length(config, prefix, packed=False)
  mixing = {
    **_mixing_steps(config, tokens, backend),
    'attention': 8.0 * embed * heads + 4.0 * tokens * heads,
  }
  layer = (
    4.0 * embed * heads
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
    step=sum(mixing[name] + layer for name in names) + output,
    attention=attending * 4.0 * prefix**2 * heads,
  )


def _mixing_steps(config, cached, backend):
  """Returns the FLOPs of a step by mixing, other than attention."""
  embed = config.emb_dim
  method = methods.choose_method(
    getattr(config, 'fourier_method', 'auto'), embed, backend=backend
  )
  features = 4.0 * embed**2
  if method == 'fft':
    features = 5.0 * embed * math.log2(embed)
  return {
    'fourier': 4.0 * cached * embed + features,
    'toeplitz': 2.0 * embed**2 + 2.0 * cached * embed,
    'none': 0.0,
  }
