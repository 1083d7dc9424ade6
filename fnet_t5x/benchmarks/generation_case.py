"""A network's generation, compiled and ready to be timed, and what it costs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from fnet_t5x.benchmarks.accelerator import (
  device_memory,
  generation,
  networks,
  quick_values,
)
from fnet_t5x.benchmarks.accelerator.programs import Program, compile_program
from fnet_t5x.costs import generation_flops
from fnet_t5x.networks import decoding

if TYPE_CHECKING:
  import flax.linen as nn
  from jaxtyping import PyTree


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of a generation.

  Attributes:
    size: a key of `networks.SIZES`.
    prefix: tokens per row that are continued.
    rows: batch size.
    tokens: generated tokens per row, at least 2.
    dtype: JAX's name of the activations' dtype.
  """

  size: str
  prefix: int
  rows: int
  tokens: int
  dtype: str = 'float32'


class GenerationCase:
  """Greedy generation by one network, in two programs.

  The first reads the prefix, fills the caches and generates one token; the
  second generates the others, from the caches that the first one left. A third
  is the encoder alone, to see its part of the first.
  """

  def __init__(
    self,
    network: networks.Network | networks.DecoderOnlyNetwork,
    sizes: Sizes,
    seed: int = 0,
  ):
    """Compiles both programs, with random parameters."""
    # Scanned layers would copy their caches in every step, out of the stack and
    # back; and GPT-2 has no scanned layers.
    module = networks.make_matched(
      network,
      sizes.size,
      dtype=jnp.dtype(sizes.dtype),
      scan_layers=False,
      max_encoder_length=sizes.prefix,
      max_target_length=sizes.tokens,
    )
    self.module: nn.Module = module
    self.sizes = sizes
    self._params = quick_values.variables(
      module, *networks.example_tokens(module)
    )
    self._prefix = generation.random_prefix(
      module, sizes.rows, sizes.prefix, seed
    )

    def first(params, prefix):
      started = generation.start(module, params, prefix, sizes.tokens)
      return generation.take_steps(module, params, started, 1)

    def rest(params, started):
      tokens, after = generation.take_steps(
        module, params, started, sizes.tokens - 1
      )
      return tokens, generation.rewound(after, started)

    self._first: Program = compile_program(first, self._params, self._prefix)
    _, started = jax.eval_shape(first, self._params, self._prefix)
    self._rest: Program = compile_program(
      rest, self._params, started, donate=(1,)
    )
    self._started: generation.Started | None = None
    self._encode: Program | None = None
    if not networks.is_decoder_only(module):
      self._encode = compile_program(
        lambda params, prefix: decoding.encode(module, params, prefix).outputs,
        self._params,
        self._prefix,
      )

  def encode(self) -> jax.Array | None:
    """Returns the encoder's output for the prefix; None without an encoder."""
    if self._encode is None:
      return None
    return self._encode(self._params, self._prefix)

  def first(self) -> jax.Array:
    """Returns the first token of each row, [rows, 1]."""
    tokens, started = self._first(self._params, self._prefix)
    if self._started is None:
      self._started = started
    # Waits for the caches too: they are part of reading the prefix.
    return jax.block_until_ready((tokens, started))[0]

  def rest(self) -> jax.Array:
    """Returns the other tokens of each row; `first` must have been called."""
    tokens, self._started = self._rest(self._params, self._started)
    return tokens

  def needed_bytes(self) -> float:
    """Memory of the larger program, according to the compiler; 0 if unknown."""
    return max(
      device_memory.program_bytes(program.compiled).get('peak_bytes', 0.0)
      for program in (self._first, self._rest)
    )

  def kept_bytes(self) -> float:
    """Memory that stays in use between calls: parameters and caches."""
    return device_memory.program_bytes(self._rest.compiled).get(
      'argument_bytes', 0.0
    )

  def costs(self, backend: str) -> Mapping[str, Any]:
    """Returns what does not depend on the machine's speed.

    Args:
      backend: see `flops.example_flops`.

    Returns:
      `parameters`, without learned positions; `prefix_flops`, per row, and
      the attention's part of it, `prefix_attention_flops`;
      `flops_per_token`, of a step per row; `self_cache_bytes` and
      `cross_cache_bytes`; `bytes_per_step`, the minimum that a step reads;
      `peak_bytes`, None if the compiler does not tell; `compile_seconds`.
    """
    sizes = self.sizes
    caches = generation.cache_bytes(
      self.module, self._params, sizes.rows, sizes.prefix, sizes.tokens
    )
    flops = generation_flops.generation_flops(
      self.module.config, sizes.prefix, sizes.tokens, backend
    )
    return {
      'parameters': networks.count_parameters(self.module),
      'prefix_flops': flops.prefix,
      'prefix_attention_flops': flops.attention,
      'flops_per_token': flops.step,
      **caches,
      'bytes_per_step': parameter_bytes_per_step(self.module, self._params)
      + sum(caches.values()),
      'peak_bytes': self.needed_bytes() or None,
      'compile_seconds': self._first.compile_seconds
      + self._rest.compile_seconds,
    }


def parameter_bytes_per_step(module: nn.Module, params: PyTree) -> int:
  """Returns the bytes of the parameters that a step reads as a whole.

  Those are the decoder's, and the table of a tied output layer; of tables of
  embeddings and positions a step reads single rows. They are counted in the
  dtype of the activations, to which programs convert them once.
  """
  read = {
    name: leaf
    for name, leaf in params['decoder'].items()
    if name != 'position_embedder'
  }
  if 'logits_dense' not in read:
    read['tied'] = params['token_embedder']
  width = jnp.dtype(module.config.dtype).itemsize
  return sum(
    math.prod(leaf.shape) * min(width, leaf.dtype.itemsize)
    for leaf in jax.tree.leaves(read)
  )
