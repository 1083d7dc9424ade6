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
from fnet_t5x.networks import decoding

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
  # Last: its layers are not scanned, and take longer to compile.
  for sizes in all_sizes(bench.setting):
    measure(bench, networks.DECODER_ONLY, sizes)


def measure(
  bench: Bench,
  network: networks.Network | networks.DecoderOnlyNetwork,
  sizes: Sizes,
) -> None:
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
  kind = f'generation {sizes.size}'
  if isinstance(network, networks.DecoderOnlyNetwork):
    kind += f' {network.name}'
  bench.case(labels, generation, kind=kind, guess=guess)


def time_generation(
  network: networks.Network | networks.DecoderOnlyNetwork,
  setting: Setting,
  sizes: Sizes,
) -> Mapping[str, Any]:
  """Times the generation of one network.

  Returns:
    `encode_seconds`, for GPT-2 those of its pass over the prefix;
    `first_token_seconds`, for encoding, creating and filling the caches, and
    one step; `token_seconds` for each further step;
    `all_seconds` for all tokens; `tokens_per_second` of all rows, by
    `token_seconds`; `self_cache_bytes` and `cross_cache_bytes`;
    `compile_seconds`.
  """
  module = network.make(
    sizes.size,
    dtype=setting.dtype,
    max_encoder_length=sizes.prefix,
    max_target_length=sizes.tokens,
  )
  params = quick_values.variables(module, *networks.example_tokens(module))
  prefix = random_prefix(module, sizes.rows, sizes.prefix, setting.seed)

  def encode(params, prefix):
    if networks.is_decoder_only(module):
      return start(module, params, prefix, sizes.tokens).cache
    return decoding.encode(module, params, prefix).outputs

  encoding = compile_program(encode, params, prefix)
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


def random_prefix(
  module: nn.Module, rows: int, length: int, seed: int
) -> Int[Array, 'rows length']:
  """Returns random tokens without padding."""
  return jax.random.randint(
    jax.random.key(seed), (rows, length), 3, module.config.vocab_size
  )


class Started(NamedTuple):
  """State of a generation.

  Attributes:
    encoded: the encoded prefix; None for a decoder-only network.
    cache: the decoder's caches.
    token: [batch, 1], the token to feed next.
  """

  encoded: decoding.EncodedInputs | None
  cache: PyTree
  token: Int[Array, 'batch 1']


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
    prefix: the encoder's tokens, or the prompt; 0 is padding.
    tokens: number of tokens to generate.
    cache_length: generated tokens that the caches hold, `tokens` if None. Each
      step reads whole caches.
  """
  started = start(module, params, prefix, cache_length or tokens)
  return take_steps(module, params, started, tokens)[0]


def take_steps(
  module: nn.Module, params: PyTree, started: Started, tokens: int
) -> tuple[Int[Array, 'batch tokens'], Started]:
  """Returns the next tokens, and the state after them."""

  def step(carry, _):
    cache, token = carry
    if started.encoded is None:
      logits, cache = decoding.step_decoder_only(module, params, cache, token)
    else:
      logits, cache = decoding.step(
        module, params, started.encoded, cache, token
      )
    token = jnp.argmax(logits, axis=-1, keepdims=True).astype(jnp.int32)
    return (cache, token), token[:, 0]

  (cache, token), found = jax.lax.scan(
    step, (started.cache, started.token), length=tokens
  )
  return found.T, Started(started.encoded, cache, token)


def rewound(now: Started, before: Started) -> Started:
  """Returns a state from which the same tokens are generated again.

  What the caches hold after the position counters is never seen, so that only
  counters go back: a program that takes steps over and over may then donate its
  state, and copies no caches.
  """
  cache = jax.tree.map(
    lambda new, old: old if jnp.issubdtype(old.dtype, jnp.integer) else new,
    now.cache,
    before.cache,
  )
  return Started(now.encoded, cache, before.token)


def start(
  module: nn.Module,
  params: PyTree,
  prefix: Int[Array, 'batch length'],
  tokens: int,
) -> Started:
  """Reads the prefix, and makes caches for a number of generated tokens.

  A decoder-only network reads a 0 and the prefix, in one pass.
  """
  if networks.is_decoder_only(module):
    prompts = jnp.pad(prefix, ((0, 0), (1, 0)))
    cache, positions = decoding.start_decoder_only(
      module, params, prompts, length=prefix.shape[1] + tokens
    )
    token = jnp.take_along_axis(prompts, positions[:, None], axis=1)
    return Started(None, cache, token)
  encoded = decoding.encode(module, params, prefix)
  prompts = jnp.zeros((prefix.shape[0], tokens), jnp.int32)
  cache, _ = decoding.start(module, params, encoded, prompts, prompted=False)
  return Started(encoded, cache, prompts[:, :1])


def cache_bytes(
  module: nn.Module, params: PyTree, rows: int, prefix: int, tokens: int
) -> dict[str, int]:
  """Returns the bytes of the caches, from their shapes.

  Args:
    module: the network.
    params: its parameters.
    rows: decoding batch size.
    prefix: input tokens per row.
    tokens: generated tokens that the caches hold. Those of GPT-2's self-
      attention also hold the prefix.
  """
  inputs = jax.ShapeDtypeStruct((rows, prefix), jnp.int32)
  shapes = jax.eval_shape(
    lambda params, inputs: start(module, params, inputs, tokens).cache,
    params,
    inputs,
  )
  found = {'self_cache_bytes': 0, 'cross_cache_bytes': 0}
  for path, shape in jax.tree_util.tree_leaves_with_path(shapes):
    # T5X's name for cross-attention.
    crosses = any('encoder_decoder' in str(key) for key in path)
    kind = 'cross_cache_bytes' if crosses else 'self_cache_bytes'
    found[kind] += math.prod(shape.shape) * shape.dtype.itemsize
  return found
