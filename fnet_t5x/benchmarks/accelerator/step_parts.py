"""The parts of a training step, each compiled and timed alone.

A part is a sublayer with its norm and residual connection, forward and
backward, including gradients of its parameters. The difference between the
measured step and the sum of its parts is the rest: copies between layers and
what XLA could not overlap. It is negative where XLA fuses across parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fnet_t5x.benchmarks.accelerator import quick_values, training_step
from fnet_t5x.benchmarks.accelerator.bench import Setting
from fnet_t5x.benchmarks.accelerator.programs import (
  compile_program,
  repeated,
  time_calls,
  time_state_calls,
)
from fnet_t5x.costs.flops import layer_mixing
from fnet_t5x.fourier.mixing import make_mixing_plan
from fnet_t5x.layers import masks
from fnet_t5x.layers.embedding import Embed
from fnet_t5x.layers.fourier_mixing import FourierMixing
from fnet_t5x.layers.normalization import LayerNorm
from fnet_t5x.networks import t5_config, t5_encoder
from fnet_t5x.runtime import losses

# Columns of a step's table, in order.
GROUPS = (
  'mixing',
  'attention',
  'feed-forward',
  'embedding',
  'logits and loss',
  'optimizer',
)


class Part(NamedTuple):
  """A part of a step.

  Attributes:
    group: one of `GROUPS`.
    count: number of times it occurs in a step.
    measure: returns `run_seconds` of one occurrence, and `compile_seconds`.
  """

  group: str
  count: int
  measure: Callable[[], Mapping[str, float]]


class Sublayer(nn.Module):
  """One sublayer of the networks, with its norm and residual connection."""

  config: Any
  kind: str

  @nn.compact
  def __call__(self, x, *shared):
    """Applies the sublayer; `shared` is a plan, or the encoded inputs."""
    cfg = self.config
    y = LayerNorm(dtype=cfg.dtype)(x)
    if self.kind == 'mixing':
      return x + FourierMixing()(y, *shared)
    if self.kind == 'feed-forward':
      return x + t5_config.feed_forward(cfg)(y, deterministic=True)
    real = jnp.ones(x.shape[:2], jnp.int32)
    if self.kind == 'cross-attention':
      (encoded,) = shared
      keys = jnp.ones(encoded.shape[:2], jnp.int32)
      mask = masks.make_attention_mask(real, keys, dtype=cfg.dtype)
      # The networks' kind of mask, so that cuDNN is chosen as it is there.
      mask = masks.LengthMask(mask, masks.lengths_of(keys), causal=False)
      attend = t5_config.attention(cfg, 'attention', cross_attention=True)
      return x + attend(y, encoded, mask, deterministic=True)
    decoder = self.kind == 'decoder attention'
    if decoder:
      mask = masks.make_decoder_mask(real, cfg.dtype)
      mask = masks.LengthMask(mask, masks.lengths_of(real), causal=True)
    else:
      mask = t5_encoder.encoder_attention_mask(real, None, cfg.dtype)
    length = x.shape[1]
    bias = t5_config.relative_position_biases(cfg)(length, length, not decoder)
    attend = t5_config.attention(cfg, 'attention')
    return x + attend(y, y, mask, bias, deterministic=True)


def parts(
  module: nn.Module,
  setting: Setting,
  rows: int,
  inputs: int,
  targets: int,
) -> dict[str, Part]:
  """Returns the parts of a network's step, except the optimizer, by name.

  Args:
    module: a `Transformer` of ours.
    setting: settings of the run.
    rows: batch size.
    inputs: input tokens per row.
    targets: target tokens per row.
  """
  cfg = module.config
  layers, decoders = layer_mixing(cfg), cfg.num_decoder_layers
  shape = jax.ShapeDtypeStruct
  encoded = shape((rows, inputs, cfg.emb_dim), cfg.dtype)
  decoded = shape((rows, targets, cfg.emb_dim), cfg.dtype)

  def sublayer(kind, x, *shared):
    return lambda: time_sublayer(Sublayer(cfg, kind), setting, x, *shared)

  def plan():
    return jax.jit(
      lambda real: make_mixing_plan(
        real,
        lengths=cfg.fourier_lengths,
        method=cfg.fourier_method,
        embed=cfg.emb_dim,
        dtype=cfg.dtype,
      )
    )(jnp.ones((rows, inputs), jnp.int32))

  found = {
    'Fourier mixing': Part(
      'mixing',
      layers.count('fourier'),
      lambda: time_sublayer(Sublayer(cfg, 'mixing'), setting, encoded, plan()),
    ),
    'encoder attention': Part(
      'attention',
      layers.count('attention'),
      sublayer('encoder attention', encoded),
    ),
    'decoder attention': Part(
      'attention', decoders, sublayer('decoder attention', decoded)
    ),
    'cross-attention': Part(
      'attention', decoders, sublayer('cross-attention', decoded, encoded)
    ),
    'encoder feed-forward': Part(
      'feed-forward', len(layers), sublayer('feed-forward', encoded)
    ),
    'decoder feed-forward': Part(
      'feed-forward', decoders, sublayer('feed-forward', decoded)
    ),
    'input embedding': Part(
      'embedding', 1, lambda: time_embedding(module, setting, rows, inputs)
    ),
    'target embedding': Part(
      'embedding', 1, lambda: time_embedding(module, setting, rows, targets)
    ),
    'logits and loss': Part(
      'logits and loss', 1, lambda: time_loss(cfg, setting, rows, targets)
    ),
  }
  return {name: part for name, part in found.items() if part.count}


def time_sublayer(
  layer: nn.Module, setting: Setting, x: jax.ShapeDtypeStruct, *shared: Any
) -> Mapping[str, float]:
  """Times a sublayer, forward and backward.

  Args:
    layer: called with activations and `shared`.
    setting: settings of the run.
    x: shape of the activations.
    *shared: further arguments: shapes of activations, which get gradients too;
      or arrays, which get none.
  """
  params = quick_values.variables(layer, x, *shared)
  x = quick_values.fill(x, setting.seed)
  trained = tuple(
    quick_values.fill(s, setting.seed + 1)
    for s in shared
    if isinstance(s, jax.ShapeDtypeStruct)
  )
  constants = () if trained else shared

  def both(x, params, trained, constants):
    y, pullback = jax.vjp(
      lambda x, params, trained: layer.apply(
        {'params': params}, x, *trained, *constants
      ),
      x,
      params,
      trained,
    )
    return pullback(y)

  return _timed(both, setting, x, params, trained, constants)


def time_embedding(
  module: nn.Module, setting: Setting, rows: int, length: int
) -> Mapping[str, float]:
  """Times the embedding look-up, and the gradient of the table."""
  cfg = module.config
  # Look-up by gather or contraction, as in the network.
  one_hot = module.bind({'params': {}}).shared_embedding.one_hot
  layer = Embed(cfg.vocab_size, cfg.emb_dim, dtype=cfg.dtype, one_hot=one_hot)
  tokens = training_step.make_batch(rows, length, 1, cfg.vocab_size)[
    'encoder_input_tokens'
  ]
  table = quick_values.fill(
    jax.ShapeDtypeStruct((cfg.vocab_size, cfg.emb_dim), jnp.float32)
  )

  def both(table, tokens):
    def look_up(table):
      return layer.apply({'params': {'embedding': table}}, tokens)

    y, pullback = jax.vjp(look_up, table)
    return pullback(y)

  return _timed(both, setting, table, tokens)


def time_loss(
  config: Any, setting: Setting, rows: int, length: int
) -> Mapping[str, float]:
  """Times the output layer and the loss, with the gradients of both inputs."""
  x = jax.ShapeDtypeStruct((rows, length, config.emb_dim), config.dtype)
  kernel = quick_values.fill(
    jax.ShapeDtypeStruct((config.emb_dim, config.vocab_size), jnp.float32)
  )
  targets = training_step.make_batch(rows, 1, length, config.vocab_size)[
    'decoder_target_tokens'
  ]

  def both(x, kernel, targets):
    def loss(x, kernel):
      total, _ = losses.output_cross_entropy(
        x, kernel, targets, z_loss=training_step.Z_LOSS
      )
      return total

    return jax.grad(loss, argnums=(0, 1))(x, kernel)

  return _timed(both, setting, quick_values.fill(x), kernel, targets)


def time_optimizer(optimizer: Any, setting: Setting) -> Mapping[str, float]:
  """Times Adafactor's update, without computing gradients.

  Args:
    optimizer: the optimizer, which is donated and must not be used again.
    setting: settings of the run.
  """
  grads = jax.tree.map(jnp.copy, optimizer.target)
  rate = jnp.float32(0.01)
  program = compile_program(
    lambda optimizer, grads, rate: optimizer.apply_gradient(
      grads, learning_rate=rate
    ),
    optimizer,
    grads,
    rate,
    donate=(0,),
  )
  times, _ = time_state_calls(
    program, optimizer, grads, rate, seconds=setting.timing_seconds
  )
  return {
    'run_seconds': times.median,
    'compile_seconds': program.compile_seconds,
  }


def _timed(function, setting, x, *arguments):
  """Times `x -> (x, gradients)`, with fewer iterations than for a mixing."""
  iterations = max(setting.iterations // 4, 1)

  def chained(x, *arguments):
    result = function(x, *arguments)
    return result if len(result) > 1 else result[0]

  program = compile_program(repeated(chained, iterations), x, *arguments)
  times = time_calls(
    lambda: program(x, *arguments), seconds=setting.timing_seconds
  )
  return {
    'run_seconds': times.median / iterations,
    'compile_seconds': program.compile_seconds,
  }
