"""The encoders, or decoders, that the study of mixers compares.

A layout is named by the mixing of its layers, such as `fourier`, or
`fourier+2`, which has attention in the two layers at the top.
"""

import argparse
import functools
from collections.abc import Iterable
from typing import Any, NamedTuple, get_args

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fnet_t5x.benchmarks.accelerator import networks
from fnet_t5x.costs import matched_depth
from fnet_t5x.networks import decoder_mixings, fnet_t5, gpt2

BASELINE, NOTHING = 'attention', 'none'
# A gated block without a mixer.
_BLOCK, _GATED = 'convolution', '_gated'
# Widths of feed-forward blocks are multiples of it.
MLP_STEP = 8
# The objective without an encoder.
CAUSAL_LM = 'causal_lm'


class Layout(NamedTuple):
  """A kind of encoder.

  Attributes:
    mixing: mixing of the layers below.
    attention_layers: number of attention layers at the top.
  """

  mixing: str
  attention_layers: int = 0

  @property
  def name(self) -> str:
    """The name on the command line."""
    if not self.attention_layers:
      return self.mixing
    return f'{self.mixing}+{self.attention_layers}'


def known_mixings(objective: str = 'masked_lm') -> tuple[str, ...]:
  """Returns the mixings that a layer can have: an encoder's, or a decoder's.

  Args:
    objective: of the study.
  """
  if objective == CAUSAL_LM:
    return get_args(decoder_mixings.DecoderMixing)
  return get_args(fnet_t5.Mixing)


def layout_of(name: str, layers: int, objective: str = 'masked_lm') -> Layout:
  """Returns the layout of a name.

  Args:
    name: a mixing, or a mixing and a number of attention layers.
    layers: depth of the stack.
    objective: of the study.

  Raises:
    ValueError: the mixing is unknown, or there are fewer layers than that.
  """
  mixing, plus, number = name.partition('+')
  known = known_mixings(objective)
  if mixing not in known:
    raise ValueError(f'{name}: choose from {", ".join(known)}')
  if not plus:
    return Layout(mixing)
  if not number.isdecimal() or not 1 <= int(number) < layers:
    raise ValueError(
      f'{name}: the number of attention layers must be from 1 to {layers - 1}, '
      'below all layers'
    )
  return Layout(mixing, 0 if mixing == BASELINE else int(number))


def control_of(layout: Layout) -> Layout:
  """Returns the layout that differs by the lack of the mixer alone.

  That is one without mixing; or, for a gated block, the same block without a
  mixer.
  """
  gated = _GATED in layout.mixing
  return layout._replace(mixing=_BLOCK if gated else NOTHING)


def with_controls(layouts: Iterable[Layout]) -> list[Layout]:
  """Returns the layouts to train, each once: the controls come first.

  No mixing and attention are always among them: whether attention is better
  says whether context counts at all.
  """
  found = [Layout(NOTHING), Layout(BASELINE)]
  for layout in layouts:
    if layout.mixing != BASELINE:
      found += [layout._replace(mixing=NOTHING), control_of(layout), layout]
  return list(dict.fromkeys(found))


class MaskedEncoder(fnet_t5.Transformer):
  """The hybrid's encoder alone, with its token embedding as output layer.

  `config.logits_via_embedding` must be True: the decoder has no parameters
  then, since it is never called.
  """

  FEATURES_READ = ('encoder_input_tokens', 'predicted_positions')

  def __call__(
    self,
    encoder_input_tokens: Int[Array, 'batch length'],
    predicted_positions: Int[Array, 'batch predictions'],
    encoder_segment_ids: Int[Array, 'batch length'] | None = None,
    encoder_positions: Int[Array, 'batch length'] | None = None,
    *,
    enable_dropout: bool = True,
    return_hidden: bool = False,
  ) -> Float[Array, 'batch predictions vocab']:
    """Returns the logits of some positions; or the output layer's input.

    Args:
      encoder_input_tokens: the inputs; 0 is padding.
      predicted_positions: which tokens to predict.
      encoder_segment_ids: as of `encode`.
      encoder_positions: as of `encode`.
      enable_dropout: whether to apply dropout.
      return_hidden: whether to skip the output layer.
    """
    hidden = self.encode(
      encoder_input_tokens,
      encoder_segment_ids,
      enable_dropout,
      encoder_positions=encoder_positions,
    )
    hidden = jnp.take_along_axis(hidden, predicted_positions[..., None], axis=1)
    if return_hidden:
      return hidden
    return hidden.astype(jnp.float32) @ self.output_kernel()


class MatchedHybrid(fnet_t5.Transformer):
  """The hybrid, whose feed-forward blocks are as wide in the encoder as given.

  Attributes:
    encoder_mlp_dim: their width; `config.mlp_dim` is the decoder's.
  """

  encoder_mlp_dim: int = 0

  def make_encoder(self) -> nn.Module:
    """Returns the mixing encoder."""
    config = self.config.replace(mlp_dim=self.encoder_mlp_dim)
    return fnet_t5.Encoder(config, self.shared_embedding)


def make(
  layout: Layout, options: argparse.Namespace, vocab_size: int, mlp_dim: int
) -> nn.Module:
  """Returns a network.

  Args:
    layout: the encoder's.
    options: the command line of the study: `objective`, sizes, `positions`,
      `length` and `dtype`.
    vocab_size: number of ids.
    mlp_dim: width of the feed-forward blocks; with a decoder, the encoder's.
  """
  if options.objective == CAUSAL_LM:
    return _decoder(layout, options, vocab_size, mlp_dim)
  alone = options.objective == 'masked_lm'
  config = fnet_t5.FNetT5Config(
    vocab_size=vocab_size,
    dtype=jnp.dtype(options.dtype),
    emb_dim=options.embed,
    num_heads=options.heads,
    head_dim=options.embed // options.heads,
    mlp_dim=options.mlp,
    num_encoder_layers=options.layers,
    num_decoder_layers=0 if alone else options.decoder_layers,
    mlp_activations=('gelu', 'linear'),
    dropout_rate=0.0,
    logits_via_embedding=alone,
    encoder_mixing=fnet_t5.mixing_layout(
      options.layers, layout.mixing, layout.attention_layers
    ),
    encoder_position_embedding=options.positions,
    max_encoder_length=options.length,
  )
  if alone:
    return MaskedEncoder(config.replace(mlp_dim=mlp_dim))
  return MatchedHybrid(config, encoder_mlp_dim=mlp_dim)


def _decoder(layout, options, vocab_size, mlp_dim):
  return gpt2.GPT2(
    gpt2.GPT2Config(
      vocab_size=vocab_size,
      dtype=jnp.dtype(options.dtype),
      emb_dim=options.embed,
      num_heads=options.heads,
      num_layers=options.layers,
      mlp_dim=mlp_dim,
      max_length=options.length,
      dropout_rate=0.0,
      decoder_mixing=decoder_mixings.decoder_mixing_layout(
        options.layers, layout.mixing, layout.attention_layers
      ),
    )
  )


def mlp_dim_of(
  layout: Layout, options: argparse.Namespace, vocab_size: int
) -> int:
  """Returns the width of a layout's feed-forward blocks.

  With `--match parameters` that is the multiple of 8 with which it has most
  nearly as many parameters as attention has with `--mlp`.

  Args:
    layout: the encoder's.
    options: the command line.
    vocab_size: number of ids, of no effect on the result.
  """
  if options.match == 'none':
    return options.mlp
  count = functools.partial(_count, options=options, vocab_size=vocab_size)
  if layout.name == BASELINE:
    return options.mlp
  return MLP_STEP * matched_depth.nearest(
    lambda steps: count(layout, mlp_dim=MLP_STEP * steps),
    count(Layout(BASELINE), mlp_dim=options.mlp),
    1,
  )


def _count(layout: Layout, *, mlp_dim: int, **settings: Any) -> int:
  return networks.count_parameters(make(layout, mlp_dim=mlp_dim, **settings))
