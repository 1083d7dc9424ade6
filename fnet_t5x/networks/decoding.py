"""Incremental decoding, with and without an encoder.

Encode once, start with the prompts, then one step per token:

  encoded = encode(module, params, inputs)
  cache, positions = start(module, params, encoded, prompts)
  logits, cache = step(module, params, encoded, cache, tokens)

A decoder-only network has no inputs to encode:

  cache, positions = start_decoder_only(module, params, prompts)
  logits, cache = step_decoder_only(module, params, cache, tokens)
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import flax.struct
import jax
import jax.numpy as jnp

if TYPE_CHECKING:
  import flax.linen as nn
  from jaxtyping import Array, Float, Int, PyTree


@flax.struct.dataclass
class EncodedInputs:
  """What the decoder reads of its inputs; a row is a sample or a beam.

  Attributes:
    outputs: the encoder's output, [rows, length, embed].
    tokens: the encoder's input, [rows, length]; 0 is padding.
  """

  outputs: Float[Array, 'rows length embed']
  tokens: Int[Array, 'rows length']

  def repeat(self, times: int) -> EncodedInputs:
    """Repeats each row, for several samples or beams per example."""
    return jax.tree.map(lambda x: jnp.repeat(x, times, axis=0), self)


def encode(
  module: nn.Module, params: PyTree, tokens: Int[Array, 'rows length']
) -> EncodedInputs:
  """Runs the encoder, without dropout; 0 is padding."""
  outputs = module.apply(
    {'params': params}, tokens, enable_dropout=False, method=module.encode
  )
  return EncodedInputs(outputs, tokens)


def supports_prefill(module: nn.Module) -> bool:
  """Whether the decoder can read a whole prompt in one call."""
  return 'prefill' in inspect.signature(module.decode).parameters


def empty_cache(
  module: nn.Module, params: PyTree, encoded: EncodedInputs, length: int
) -> PyTree:
  """Returns a cache for `length` tokens, without prompts and projections."""
  targets = jnp.ones((encoded.tokens.shape[0], length), jnp.int32)
  _, variables = module.apply(
    {'params': params},
    encoded.outputs,
    jnp.ones_like(encoded.tokens),
    targets,
    targets,
    enable_dropout=False,
    decode=True,
    mutable=['cache'],
    method=module.decode,
  )
  return variables['cache']


def start(
  module: nn.Module,
  params: PyTree,
  encoded: EncodedInputs,
  prompts: Int[Array, 'rows target_length'],
  *,
  prompted: bool = True,
) -> tuple[PyTree, Int[Array, ' rows']]:
  """Returns a cache that is prefilled with the prompts.

  The prefill also projects the encoder's output to keys and values, once for
  all steps. Therefore it runs without prompts too, over a single position,
  which is then decoded again.

  Args:
    module: the network.
    params: its parameters.
    encoded: the inputs.
    prompts: a 0, the prompt, then zeros; as long as the cache.
    prompted: whether there are any prompts.

  Returns:
    The cache, and the index of each row's last prompt token (0: no prompt),
    which is the next to feed.
  """
  cache = empty_cache(module, params, encoded, prompts.shape[1])
  if not prompted:
    prompts = prompts[:, :1]
  positions = jnp.sum(prompts != 0, axis=1)
  _, variables = module.apply(
    {'params': params, 'cache': cache},
    encoded.outputs,
    encoded.tokens,
    prompts,
    jnp.ones_like(prompts),
    enable_dropout=False,
    prefill=True,
    prefill_lengths=positions,
    mutable=['cache'],
    method=module.decode,
  )
  return _set_positions(variables['cache'], positions), positions


def step(
  module: nn.Module,
  params: PyTree,
  encoded: EncodedInputs,
  cache: PyTree,
  tokens: Int[Array, 'rows 1'],
  **options: Any,
) -> tuple[Float[Array, 'rows vocab'], PyTree]:
  """Returns the logits that follow one token per row, and the new cache.

  Args:
    module: the network.
    params: its parameters.
    encoded: the inputs.
    cache: of `start`, or of the step before.
    tokens: the tokens chosen last; 0 begins a text.
    **options: further arguments of the network's `decode`.
  """
  logits, variables = module.apply(
    {'params': params, 'cache': cache},
    encoded.outputs,
    encoded.tokens,
    tokens,
    tokens,
    enable_dropout=False,
    decode=True,
    mutable=['cache'],
    method=module.decode,
    **options,
  )
  return jnp.squeeze(logits, axis=1), variables['cache']


def start_decoder_only(
  module: nn.Module,
  params: PyTree,
  prompts: Int[Array, 'rows length'],
  prompt_region: Int[Array, 'rows length'] | None = None,
  *,
  bidirectional: bool = False,
  length: int | None = None,
) -> tuple[PyTree, Int[Array, ' rows']]:
  """Returns a decoder-only network's cache, filled by one pass.

  Args:
    module: the network.
    params: its parameters.
    prompts: a 0, the prompt, then zeros.
    prompt_region: 1 on the first 0 and the prompt; None derives it.
    bidirectional: whether positions of the prompt attend to one another in both
      directions, as in prefix LM.
    length: length of the cache, in tokens; None for that of the prompts. A
      longer cache than prompts saves a pass over the zeros after them.

  Returns:
    As `start`.
  """
  positions = jnp.sum(prompts[:, 1:] != 0, axis=1)
  if prompt_region is None:
    places = jnp.arange(prompts.shape[1])[None, :]
    prompt_region = (places <= positions[:, None]).astype(jnp.int32)
  full = jnp.ones((prompts.shape[0], length or prompts.shape[1]), jnp.int32)
  _, variables = module.apply(
    {'params': params},
    full,
    full,
    enable_dropout=False,
    decode=True,
    mutable=['cache'],
  )
  if length and not bidirectional and prompts.shape[1] > 1:
    # A token in the last column is the next to feed, so that only a prompt that
    # sees both ways needs it now. Without it, lengths stay powers of two.
    prompts, prompt_region = prompts[:, :-1], prompt_region[:, :-1]
  _, variables = module.apply(
    {'params': params, 'cache': variables['cache']},
    decoder_input_tokens=prompts,
    # Non-zero on the prompt with its first 0, which is no padding here.
    decoder_target_tokens=prompt_region,
    decoder_causal_attention=prompt_region if bidirectional else None,
    enable_dropout=False,
    prefill=True,
    prefill_lengths=positions,
    mutable=['cache'],
  )
  return variables['cache'], positions


def step_decoder_only(
  module: nn.Module,
  params: PyTree,
  cache: PyTree,
  tokens: Int[Array, 'rows 1'],
  **options: Any,
) -> tuple[Float[Array, 'rows vocab'], PyTree]:
  """Does `step` for a decoder-only network."""
  logits, variables = module.apply(
    {'params': params, 'cache': cache},
    tokens,
    tokens,
    enable_dropout=False,
    decode=True,
    mutable=['cache'],
    **options,
  )
  return jnp.squeeze(logits, axis=1), variables['cache']


def _set_positions(cache: PyTree, positions: Int[Array, ' rows']) -> PyTree:
  """Sets the position counter of a decoder with position embeddings.

  Its embedder counts positions in the cache, under T5X's name, and a prefill,
  being one call, advances the counter by one only. A cache without a counter is
  returned unchanged.
  """
  decoder = cache.get('decoder', {})
  embedder = decoder.get('position_embedder', {})
  if 'position_embedder_index' not in embedder:
    return cache
  embedder = {**embedder, 'position_embedder_index': positions}
  return {**cache, 'decoder': {**decoder, 'position_embedder': embedder}}
