"""Section 4: encoding of a prefix and greedy generation from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from fnet_t5x.benchmarks.accelerator import networks, quick_values
from fnet_t5x.benchmarks.accelerator.bench import Bench, Setting
from fnet_t5x.benchmarks.accelerator.programs import (
  compile_program,
  time_calls,
)

if TYPE_CHECKING:
  import flax.linen as nn
  from jaxtyping import Array, Int, PyTree


class Sizes(NamedTuple):
  """Sizes of a generation.

  Attributes:
    size: size of the network.
    prefix: input tokens per row, without padding.
    rows: decoding batch size.
    tokens: generated tokens per row.
  """

  size: str
  prefix: int
  rows: int = 8
  tokens: int = 128


def all_sizes(setting: Setting) -> tuple[Sizes, ...]:
  """Returns the sizes to measure."""
  if setting.toy:
    return (Sizes('toy', 32, 2, 8),)
  if setting.backend == 'cpu':
    return (Sizes('small', 512, 2, 16),)
  return (Sizes('base', 512), Sizes('base', 4096))


def run(bench: Bench) -> None:
  """Measures every network at every size."""
  for sizes in all_sizes(bench.setting):
    for network in networks.NETWORKS.values():
      measure(bench, network, sizes)


def measure(bench: Bench, network: networks.Network, sizes: Sizes) -> None:
  """Times one network's generation."""
  labels = {'network': network.name, **sizes._asdict()}
  t5 = {**labels, 'network': 'T5'}

  def generation():
    result = time_generation(network, bench.setting, sizes)
    reference = bench.found(bench.section, **t5)
    return {
      **result,
      'speed_of_t5': reference['all_seconds'] / result['all_seconds']
      if reference
      else None,
    }

  guess = 5.0 if bench.setting.toy else 30.0
  bench.case(labels, generation, kind=f'generation {sizes.size}', guess=guess)


def time_generation(
  network: networks.Network, setting: Setting, sizes: Sizes
) -> Mapping[str, Any]:
  """Times the generation of one network.

  Returns:
    `encode_seconds`; `first_token_seconds`, for encoding, creating and filling
    the caches, and one step; `token_seconds` for each further step;
    `all_seconds` for all tokens; `tokens_per_second` of all rows, by
    `token_seconds`; `self_cache_bytes` and `cross_cache_bytes`;
    `compile_seconds`.
  """
  module = network.make(
    sizes.size, dtype=setting.dtype, max_encoder_length=sizes.prefix
  )
  ones = jnp.ones((1, 8), jnp.int32)
  params = quick_values.variables(module, ones, ones, ones)
  prefix = jax.random.randint(
    jax.random.key(setting.seed),
    (sizes.rows, sizes.prefix),
    3,
    module.config.vocab_size,
  )
  encoding = compile_program(
    lambda params, prefix: encode(module, params, prefix), params, prefix
  )
  first, whole = (
    compile_program(
      lambda params, prefix, tokens=tokens: generate(
        module, params, prefix, tokens, cache_length=sizes.tokens
      ),
      params,
      prefix,
    )
    for tokens in (1, sizes.tokens)
  )
  seconds = setting.timing_seconds
  times = [
    time_calls(lambda program=program: program(params, prefix), seconds=seconds)
    for program in (encoding, first, whole)
  ]
  encoded, one, all_tokens = (time.median for time in times)
  token = max(all_tokens - one, 0.0) / (sizes.tokens - 1)
  programs = (encoding, first, whole)
  return {
    'encode_seconds': encoded,
    'first_token_seconds': one,
    'token_seconds': token,
    'all_seconds': all_tokens,
    'tokens_per_second': sizes.rows / token if token else None,
    **cache_bytes(module, params, sizes.rows, sizes.prefix, sizes.tokens),
    'compile_seconds': sum(program.compile_seconds for program in programs),
  }


def encode(
  module: nn.Module, params: PyTree, prefix: Int[Array, 'batch length']
) -> Array:
  """Returns the encoder's output, without dropout."""
  return module.apply(
    {'params': params}, prefix, enable_dropout=False, method=module.encode
  )


def generate(
  module: nn.Module,
  params: PyTree,
  prefix: Int[Array, 'batch length'],
  tokens: int,
  *,
  cache_length: int | None = None,
) -> Int[Array, 'batch tokens']:
  """Generates tokens by greedy decoding.

  Ignores EOS, so that all rows have the same number of tokens, and all networks
  the same number of steps.

  Args:
    module: the network.
    params: its parameters.
    prefix: the encoder's tokens; 0 is padding.
    tokens: number of tokens to generate.
    cache_length: length of the caches, `tokens` if None. Each step reads whole
      caches.
  """
  rows = prefix.shape[0]
  encoded = encode(module, params, prefix)
  cache = start_cache(module, params, encoded, prefix, cache_length or tokens)

  def step(carry, _):
    cache, token = carry
    logits, variables = module.apply(
      {'params': params, 'cache': cache},
      encoded,
      prefix,
      token,
      token,
      enable_dropout=False,
      decode=True,
      mutable=['cache'],
      method=module.decode,
    )
    token = jnp.argmax(logits[:, -1:], axis=-1).astype(jnp.int32)
    return (variables['cache'], token), token[:, 0]

  first = jnp.zeros((rows, 1), jnp.int32)
  _, found = jax.lax.scan(step, (cache, first), length=tokens)
  return found.T


def start_cache(
  module: nn.Module,
  params: PyTree,
  encoded: Array,
  prefix: Int[Array, 'batch length'],
  tokens: int,
) -> PyTree:
  """Returns caches with the encoder's output projected, and no tokens."""
  from fnet_t5x.runtime import beam_search

  rows = prefix.shape[0]
  targets = jnp.ones((rows, tokens), jnp.int32)
  _, variables = module.apply(
    {'params': params},
    encoded,
    jnp.ones_like(prefix),
    targets,
    targets,
    enable_dropout=False,
    decode=True,
    mutable=['cache'],
    method=module.decode,
  )
  start = jnp.zeros((rows, 1), jnp.int32)
  none = jnp.zeros((rows,), jnp.int32)
  _, variables = module.apply(
    {'params': params, 'cache': variables['cache']},
    encoded,
    prefix,
    start,
    jnp.ones_like(start),
    enable_dropout=False,
    prefill=True,
    prefill_lengths=none,
    mutable=['cache'],
    method=module.decode,
  )
  return beam_search.set_positions(variables['cache'], none)


def cache_bytes(
  module: nn.Module, params: PyTree, rows: int, prefix: int, tokens: int
) -> dict[str, int]:
  """Returns the bytes of the caches, from their shapes.

  Args:
    module: the network.
    params: its parameters.
    rows: decoding batch size.
    prefix: input tokens per row.
    tokens: length of the decoder's caches, in tokens.
  """
  inputs = jax.ShapeDtypeStruct((rows, prefix), jnp.int32)

  def start(params, inputs):
    encoded = encode(module, params, inputs)
    return start_cache(module, params, encoded, inputs, tokens)

  shapes = jax.eval_shape(start, params, inputs)
  found = {'self_cache_bytes': 0, 'cross_cache_bytes': 0}
  for path, shape in jax.tree_util.tree_leaves_with_path(shapes):
    # T5X's name for cross-attention.
    crosses = any('encoder_decoder' in str(key) for key in path)
    kind = 'cross_cache_bytes' if crosses else 'self_cache_bytes'
    found[kind] += math.prod(shape.shape) * shape.dtype.itemsize
  return found
