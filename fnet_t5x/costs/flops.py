"""Model FLOPs by formula, from the sizes of the network.

A product of [a, b] and [b, c] matrices is 2 a b c FLOPs. With n inputs, m
targets, D = EMBED_DIM, A = heads * head_dim, M = MLP_DIM, g parallel
projections into the feed-forward block (2 for GEGLU), V the vocabulary, the
forward pass of an example takes (Kaplan et al. 2020, arXiv 2001.08361, table 1;
Chowdhery et al. 2022, arXiv 2204.02311, appendix B):

    self-attention       8 n D A + 4 n^2 A     projections, scores and averages
    cross-attention      4 m D A + 4 n D A + 4 m n A
    feed-forward block   2 (g + 1) n D M
    output layer         2 m D V
    GPT-2's layer        8 t D^2 + 4 t^2 D + 4 t D M     with t = n + m tokens
    GPT-2's output       2 t D V
    linear mixing        2 n^2 D + 2 n D^2
    Toeplitz mixing      2 n^2 D + 2 n D^2     by matrices; by FFT over s >= 2 n
                         points instead of 2 n^2 D: 5 D s log2 s
    gated block          6 n D^2               and its mixing's; of Toeplitz
      mixing without 2 n D^2, or with two terms of it and weights per token and
      head, twice 2 n^2 D, or 15/2 D s log2 s, and 4 n D heads
    Fourier mixing (Lee-Thorp et al. 2021, arXiv 2105.03824), with f = D
    features if matrices transform both axes (not on CPU), otherwise half of
    them, f = D / 2 + 1:
      over features      4 n D f by matrices,  5/2 n D log2 D by FFT
      over tokens        4 n^2 f by matrices,  5 f n log2 n   by FFT,
                         n^2 f by folded matrices (rows that are not packed)
    Hartley mixing       the same, but 2 n^2 f by folded matrices
    shorter encoder output of k tokens    2 k n D, and cross-attention to k
    causal mixing in a decoder, in place of self-attention (in GPT-2's layer of
    8 t D^2 + 4 t^2 D), with m tokens:
      Toeplitz as above; Fourier as above over features, and over tokens
      4 m^2 f by matrices, 20 f s log2 s by FFT (the real part alone is not
      enough, and inputs are complex: four times Toeplitz mixing's)

The backward pass computes two products per product, one for the gradient of
each factor: three times the forward pass in total. Fourier mixing has a single
factor, and is its own transpose: twice the forward pass. So are the FFTs of
Toeplitz mixing: gradients of both factors are products of spectra. Not counted:
transforms of the filters, once per batch; convolutions over few tokens, which
are sums of shifted activations, not products of matrices; embeddings, which are
look-ups (the one-hot products for a sharded vocabulary belong to the program,
not the model), normalisation, softmax, the optimizer, and recomputation by
remat. Attention is counted in full, since programs compute it so, although half
of the decoder's scores are masked.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from fnet_t5x.fourier import causal, methods, toeplitz
from fnet_t5x.fourier.bluestein import convolution_size
from fnet_t5x.layers import low_pass


@dataclasses.dataclass(frozen=True)
class Flops:
  """FLOPs per example.

  Attributes:
    encoder: forward pass of the encoder.
    decoder: forward pass of the decoder, without the output layer.
    output: forward pass of the output layer.
    mixing: the part of `encoder` and `decoder` whose backward pass takes as
      much as the forward pass: Fourier and Hartley mixing, FFTs of Toeplitz
      mixing, and a shorter output.
  """

  encoder: float
  decoder: float
  output: float
  mixing: float

  @property
  def forward(self) -> float:
    """FLOPs of a forward pass."""
    return self.encoder + self.decoder + self.output

  @property
  def training(self) -> float:
    """FLOPs of a forward and a backward pass."""
    return 3 * self.forward - self.mixing


# Attributes of a network's configuration that the formulas use.
_SIZES = (
  'emb_dim',
  'head_dim',
  'mlp_activations',
  'mlp_dim',
  'num_decoder_layers',
  'num_encoder_layers',
  'num_heads',
  'vocab_size',
)


def is_decoder_only(config: Any) -> bool:
  """Whether a configuration is that of GPT-2."""
  return hasattr(config, 'feed_forward_width')


def batch_flops(
  config: Any, batch: Mapping[str, Any], backend: str
) -> float | None:
  """Returns the FLOPs of a training step, over all devices.

  Args:
    config: a `T5Config`, `FNetT5Config` or `GPT2Config`, or that of a similar
      network.
    batch: arrays or shapes [batch, length], by model feature.
    backend: as in `example_flops`.

  Returns:
    The FLOPs; None for other kinds of networks, which have no formula here.
  """
  if is_decoder_only(config):
    rows, tokens = batch['decoder_target_tokens'].shape
    example = decoder_only_flops(
      config,
      tokens,
      packed='decoder_segment_ids' in batch,
      backend=backend,
    )
    return example.training * rows
  if not all(hasattr(config, size) for size in _SIZES):
    return None
  rows, inputs = batch['encoder_input_tokens'].shape
  example = example_flops(
    config,
    inputs,
    batch['decoder_target_tokens'].shape[1],
    packed='encoder_segment_ids' in batch,
    backend=backend,
  )
  return example.training * rows


def example_flops(
  config: Any,
  inputs: int,
  targets: int,
  *,
  packed: bool = True,
  backend: str = 'tpu',
) -> Flops:
  """Returns the FLOPs per example by the formulas above.

  Args:
    config: a `T5Config` or `FNetT5Config`.
    inputs: tokens per row of the encoder.
    targets: tokens per row of the decoder.
    packed: whether rows hold several examples: mixings then use matrices over
      tokens.
    backend: JAX's name of the platform, which decides between matrices and FFT.
  """
  embed, heads = config.emb_dim, config.num_heads * config.head_dim
  kernels = len(config.mlp_activations) + 1

  def feed_forward(tokens):
    return 2.0 * kernels * tokens * embed * config.mlp_dim

  def self_attention(tokens):
    return 8.0 * tokens * embed * heads + 4.0 * tokens**2 * heads

  layers = layer_mixing(config)
  mixing = {
    'attention': (self_attention(inputs), 0.0),
    **{
      name: _mixing(name, config, inputs, packed, backend)
      for name in set(layers) - {'attention'}
    },
  }
  attended = encoder_output_length(config, inputs, packed)
  cross = (
    4.0 * targets * embed * heads
    + 4.0 * attended * embed * heads
    + 4.0 * targets * attended * heads
  )
  shortening = 2.0 * attended * inputs * embed if attended < inputs else 0.0
  mixed = {
    name: causal_mixing(name, config, targets, packed, backend)
    for name in decoder_mixing(config)
  }
  mixed['attention'] = self_attention(targets), 0.0
  causal_layers = [mixed[name] for name in decoder_mixing(config)]
  return Flops(
    encoder=sum(sum(mixing[name]) + feed_forward(inputs) for name in layers)
    + shortening,
    decoder=sum(map(sum, causal_layers))
    + config.num_decoder_layers * (cross + feed_forward(targets)),
    output=2.0 * targets * embed * config.vocab_size,
    mixing=sum(mixing[name][1] for name in layers)
    + shortening
    + sum(transforms for _, transforms in causal_layers),
  )


def decoder_only_flops(
  config: Any, tokens: int, *, packed: bool = False, backend: str = 'tpu'
) -> Flops:
  """Returns the FLOPs per example of GPT-2.

  Args:
    config: a `GPT2Config`.
    tokens: tokens per row, of inputs and targets together.
    packed: see `example_flops`.
    backend: see `example_flops`.
  """
  layers = [
    decoder_only_layer(name, config, tokens, packed=packed, backend=backend)
    for name in decoder_mixing(config)
  ]
  return Flops(
    encoder=0.0,
    decoder=sum(map(sum, layers)),
    output=2.0 * tokens * config.emb_dim * config.vocab_size,
    mixing=sum(transforms for _, transforms in layers),
  )


def decoder_only_layer(
  mixing: str, config: Any, tokens: int, *, packed: bool, backend: str
) -> tuple[float, float]:
  """Returns the FLOPs of a layer of GPT-2: of products, and of transforms.

  Args:
    mixing: of the layer.
    config: see `decoder_only_flops`, as for the others.
    tokens: tokens per row.
    packed: whether rows hold several examples.
    backend: JAX's name of the platform.
  """
  embed = config.emb_dim
  feed_forward = 4.0 * tokens * embed * config.feed_forward_width
  if mixing == 'attention':
    attention = 8.0 * tokens * embed**2 + 4.0 * tokens**2 * embed
    return attention + feed_forward, 0.0
  products, transforms = causal_mixing(mixing, config, tokens, packed, backend)
  return products + feed_forward, transforms


def causal_mixing(
  name: str, config: Any, tokens: int, packed: bool, backend: str
) -> tuple[float, float]:
  """Returns the FLOPs of products, and of transforms; none of attention."""
  if name == 'toeplitz':
    return _mixing(name, config, tokens, packed, backend)
  if name != 'fourier':
    return 0.0, 0.0
  method, embed = config.fourier_method, config.emb_dim
  by_fft = (
    causal.choose_method(method, tokens, packed=packed, backend=backend)
    == 'fft'
  )
  kind = 'whole' if by_fft else 'features'
  features = methods.choose_method(method, embed, kind, backend=backend)
  kept = embed // 2 + 1
  if by_fft:
    size = convolution_size(tokens)
    over_tokens = 20.0 * kept * size * math.log2(size)
  else:
    if features == 'matmul' and methods.all_features_pay(backend):
      kept = embed
    over_tokens = 4.0 * tokens**2 * kept
  if features == 'matmul':
    return 0.0, over_tokens + 4.0 * tokens * embed * kept
  return 0.0, over_tokens + 2.5 * tokens * embed * math.log2(embed)


def encoder_output_length(config: Any, inputs: int, packed: bool) -> int:
  """Returns the number of tokens per row that the decoder attends to."""
  rate = getattr(config, 'encoder_output_rate', 1)
  return low_pass.output_length(inputs, rate, packed)


def decoder_mixing(config: Any) -> tuple[str, ...]:
  """Returns the mixing of each decoder layer; attention for T5."""
  if hasattr(config, 'decoder_layer_mixing'):
    return config.decoder_layer_mixing
  return ('attention',) * config.num_decoder_layers


def layer_mixing(config: Any) -> tuple[str, ...]:
  """Returns the mixing of each encoder layer; attention for T5."""
  return getattr(
    config, 'layer_mixing', ('attention',) * config.num_encoder_layers
  )


def _mixing(name, config, inputs, packed, backend):
  """Returns the FLOPs of products with parameters, and of transforms."""
  embed = config.emb_dim
  kernel = 2.0 * inputs * embed**2
  gated = name == 'convolution' or '_gated' in name
  products, transforms = (3 * kernel if gated else 0.0), 0.0
  match name.partition('_')[0]:
    case 'fourier' | 'hartley' as transform:
      transforms += _transform(transform, config, inputs, packed, backend)
    case 'linear':
      products += 2.0 * inputs**2 * embed + kernel
    case 'toeplitz':
      terms = 2 if name.endswith('_dependent') else 1
      if not gated:
        products += kernel
      if terms == 2:
        products += 4.0 * inputs * embed * config.num_heads
      method = toeplitz.choose_method(
        config.toeplitz_method, inputs, packed=packed, backend=backend
      )
      if method == 'fft':
        size = convolution_size(inputs)
        transforms += 2.5 * (terms + 1) * embed * size * math.log2(size)
      else:
        products += 2.0 * terms * inputs**2 * embed
  return products, transforms


def _transform(transform, config, inputs, packed, backend):
  embed = config.emb_dim
  ways = methods.choose_ways(
    inputs,
    embed,
    lengths=getattr(config, 'fourier_lengths', 'exact'),
    packed=packed,
    method=getattr(config, 'fourier_method', 'auto'),
    backend=backend,
  )
  kept = embed if ways.all_features else embed // 2 + 1
  if ways.features == 'matmul':
    over_features = 4.0 * inputs * embed * kept
  else:
    over_features = 2.5 * inputs * embed * math.log2(embed)
  over_tokens = {
    'matrices': 4.0 * inputs**2 * kept,
    'folded': (2.0 if transform == 'hartley' else 1.0) * inputs**2 * kept,
  }.get(ways.length, 5.0 * kept * inputs * math.log2(max(inputs, 2)))
  return over_features + over_tokens
