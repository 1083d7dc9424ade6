"""Sampling and greedy decoding; beam search comes from `beam_search`."""

import functools
from collections.abc import Callable

import flax.core
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from fnet_t5x import number_ranges
from fnet_t5x.runtime.beam_search import TokensToLogits, beam_search
from fnet_t5x.runtime.beam_state import BeamState, beam_init, brevity_penalty
from fnet_t5x.runtime.beam_utils import (
  NEG_INF,
  NEG_INF_VALUE,
  Cache,
  DecodingState,
  add_beam_dim,
  cache_gather_beams,
  cache_map,
  flat_batch_beam_expand,
  flatten_beam_dim,
  gather_beams,
  gather_topk_beams,
  top_k_two_stage,
  unflatten_beam_dim,
)
from fnet_t5x.runtime.token_choice import (
  MIN_TEMPERATURE,
  choose_tokens,
  is_traced,
)

__all__ = [
  'MIN_TEMPERATURE',
  'NEG_INF',
  'NEG_INF_VALUE',
  'BeamState',
  'DecodingState',
  'LogitCallbackFn',
  'SamplingLoopState',
  'StateCallbackFn',
  'add_beam_dim',
  'beam_init',
  'beam_search',
  'brevity_penalty',
  'cache_gather_beams',
  'cache_map',
  'flat_batch_beam_expand',
  'flatten_beam_dim',
  'gather_beams',
  'gather_topk_beams',
  'temperature_sample',
  'top_k_two_stage',
  'unflatten_beam_dim',
]

# Columns behind the last output: one for the leading 0 that the output drops,
# one into which rows that are through write while they wait for the others.
_SPARE_COLUMNS = 2


@flax.struct.dataclass
class SamplingLoopState:
  """The state of sampling, which callbacks may read and change.

  A row is one sample of one example; an example's rows are side by side.

  Attributes:
    step: scalar, steps made.
    cur_index: [rows] position of `cur_token`.
    sequences: [rows, length + 2] tokens, the prompts included.
    cache: the network's cache.
    cur_token: [rows, 1] token to feed next.
    ended: [rows, 1] whether the row is through.
    rng: key for the steps to come.
    log_prob: [rows] log-probability so far, in nats, of what was sampled.
  """

  step: jax.Array
  cur_index: jax.Array
  sequences: jax.Array
  cache: Cache
  cur_token: jax.Array
  ended: jax.Array
  rng: jax.Array
  log_prob: jax.Array


StateCallbackFn = Callable[[SamplingLoopState], SamplingLoopState]
LogitCallbackFn = Callable[[jax.Array, SamplingLoopState], jax.Array]


def temperature_sample(
  inputs: Int[Array, 'batch length'],
  cache: Cache,
  tokens_to_logits: TokensToLogits,
  eos_id: int,
  decode_rng: jax.Array | None = None,
  num_decodes: int = 1,
  temperature: float | Float[Array, '...'] = 1.0,
  topk: int = 1,
  topp: float = 0.0,
  cache_offset: int = 0,
  initial_index: Int[Array, ' batch'] | None = None,
  max_decode_steps: int | Int[Array, ''] | None = None,
  max_decode_steps_hard_limit: int | None = None,
  rescale_log_probs: bool = True,
  state_callback_fn: StateCallbackFn | None = None,
  logit_callback_fn: LogitCallbackFn | None = None,
) -> tuple[
  Int[Array, 'batch num_decodes length'], Float[Array, 'batch num_decodes']
]:
  """Samples token by token; greedy with topk 1 or temperature 0.

  A row ends at an EOS that its prompt did not have; zeros follow it. A row
  whose prompt was longer than another's waits for that one.

      inputs  [0, 5, 1, 0, 0, 0]    prompt 5, 1
      output  [5, 1, a, b, EOS, 0]  a: what follows 1

  Args:
    inputs: a 0, then the prompt, then zeros: fed as they are, and at no cost
      in log-probability.
    cache: the network's cache, [batch, ...].
    tokens_to_logits: one step of the network: logits [batch * num_decodes,
      vocab] of the next token, and the new cache.
    eos_id: the token that ends a sequence.
    decode_rng: key; PRNGKey(0) where None.
    num_decodes: samples an example.
    temperature: divides the logits; a number, or one for each example.
    topk: sample from the k likeliest tokens; 0 for all.
    topp: sample from the likeliest tokens of this total probability; 0 for
      all. Not together with topk.
    cache_offset: position of the cache's batch axis, 1 for scanned layers.
    initial_index: [batch] lengths of the prompts if the cache holds them: the
      loop starts at their last tokens. None to feed them token by token.
    max_decode_steps: most tokens to write after the prompt; None for as many
      as fit.
    max_decode_steps_hard_limit: static limit of the former.
    rescale_log_probs: whether log-probabilities are those of the distribution
      sampled from (0 for greedy), or of the network's own.
    state_callback_fn: changes the state before each step and at the end.
    logit_callback_fn: changes the logits before each choice.

  Returns:
    Token ids without the first 0, and log-probabilities in nats, both in
    increasing order of the latter: NaN where a logit was NaN.

  Raises:
    ValueError: if both topk and topp are set, max_decode_steps is more than
      the inputs' length, or a number is out of range.
  """
  _check_ranges(num_decodes, temperature, topk, topp, max_decode_steps)
  if decode_rng is None:
    decode_rng = jax.random.PRNGKey(0)
  if max_decode_steps is not None and (max_decode_steps_hard_limit or 0) > 0:
    max_decode_steps = jnp.minimum(
      max_decode_steps, max_decode_steps_hard_limit
    )
  batch_size = inputs.shape[0]
  if num_decodes > 1:
    expand = functools.partial(flat_batch_beam_expand, beam_size=num_decodes)
    inputs = expand(inputs)
    cache = cache_map(
      functools.partial(expand, offset=cache_offset),
      cache,
      apply_to_index=initial_index is not None,
    )
    if initial_index is not None:
      initial_index = expand(initial_index)

  decodes, log_prob = _temperature_sample_single_trial(
    inputs,
    cache,
    tokens_to_logits,
    eos_id,
    decode_rng,
    num_decodes,
    temperature,
    topk,
    topp,
    initial_index=initial_index,
    max_decode_steps=max_decode_steps,
    rescale_log_probs=rescale_log_probs,
    state_callback_fn=state_callback_fn,
    logit_callback_fn=logit_callback_fn,
  )
  decodes = unflatten_beam_dim(decodes, batch_size, num_decodes)
  log_prob = unflatten_beam_dim(log_prob, batch_size, num_decodes)
  order = jnp.argsort(log_prob, axis=-1)
  return (
    jnp.take_along_axis(decodes, order[:, :, None], axis=1),
    jnp.take_along_axis(log_prob, order, axis=-1),
  )


def _check_ranges(
  num_decodes, temperature, topk, topp, max_decode_steps
) -> None:
  """Refuses numbers that mean nothing; what is traced is not known yet."""
  for name, value, options in (
    ('num_decodes', num_decodes, {'minimum': 1, 'whole': True}),
    ('topk', topk, {'minimum': 0, 'whole': True}),
    ('topp', topp, {'minimum': 0, 'maximum': 1}),
    ('max_decode_steps', max_decode_steps, {'minimum': 1, 'whole': True}),
  ):
    if value is not None and not is_traced(value):
      number_ranges.check(name, value, **options)
  if not is_traced(temperature):
    for value in np.ravel(temperature).tolist():
      number_ranges.check('temperature', value, 0)


def _temperature_sample_single_trial(
  inputs: Int[Array, 'rows length'],
  cache: Cache,
  tokens_to_logits: TokensToLogits,
  eos_id: int,
  prng_key: jax.Array,
  num_decodes: int = 1,
  temperature: float | Float[Array, '...'] = 1.0,
  topk: int = 20,
  topp: float = 0.0,
  initial_index: Int[Array, ' rows'] | None = None,
  max_decode_steps: int | Int[Array, ''] | None = None,
  rescale_log_probs: bool = True,
  state_callback_fn: StateCallbackFn | None = None,
  logit_callback_fn: LogitCallbackFn | None = None,
) -> tuple[Int[Array, 'rows length'], Float[Array, ' rows']]:
  """`temperature_sample` of rows, one sample each, in the rows' order."""
  if not (is_traced(topk) or is_traced(topp)) and topk and topp:
    raise ValueError(
      f'topk={topk} and topp={topp}: set at most one of the two, the other to 0'
    )
  inputs = jnp.asarray(inputs, jnp.int32)
  rows, length = inputs.shape
  # Where each row must stop at the latest.
  limits = jnp.full((rows,), length)
  if max_decode_steps is not None:
    if not is_traced(max_decode_steps) and max_decode_steps > length:
      raise ValueError(
        f'max_decode_steps={max_decode_steps} is more than the length of the'
        f' decoder inputs, {length}'
      )
    prompt_lengths = jnp.sum(inputs != 0, axis=1)
    limits = jnp.minimum(limits, prompt_lengths + max_decode_steps)

  sequences = jnp.pad(inputs, ((0, 0), (0, _SPARE_COLUMNS)))
  if initial_index is None:
    start = jnp.zeros((rows,), jnp.int32)
    first_token = jnp.zeros((rows, 1), jnp.int32)
  else:
    start = jnp.asarray(initial_index)
    first_token = jnp.take_along_axis(sequences, start[:, None], axis=1)

  def count_eos(sequences):
    return jnp.sum(sequences == eos_id, axis=-1, keepdims=True)

  # EOS often ends a prompt as well: a row is through when it has one more.
  prompt_eos = count_eos(sequences)

  def step(state: SamplingLoopState) -> SamplingLoopState:
    if state_callback_fn is not None:
      state = state_callback_fn(state)
    choice_rng, rng = jax.random.split(state.rng)
    logits, cache = tokens_to_logits(
      DecodingState(
        cur_index=state.cur_index,
        sequences=state.sequences[:, :-_SPARE_COLUMNS],
        cur_token=state.cur_token,
        cache=state.cache,
      )
    )
    if isinstance(state.cache, flax.core.FrozenDict):
      cache = flax.core.freeze(cache)
    if logit_callback_fn is not None:
      logits = logit_callback_fn(logits, state)
    token, log_prob = choose_tokens(
      choice_rng,
      jnp.asarray(logits),
      temperature,
      num_decodes,
      topk=topk,
      topp=topp,
      rescale_log_probs=rescale_log_probs,
    )
    # Without it a broken network's scores would be those of a uniform one.
    broken = jnp.any(jnp.isnan(logits), axis=-1)
    log_prob = jnp.where(broken, jnp.nan, log_prob)

    # Rows that are through stay where they are, one past their limit.
    index = jnp.minimum(state.cur_index, limits)
    prompt_token = jnp.take_along_axis(
      state.sequences, index[:, None] + 1, axis=1
    )
    free = prompt_token == 0
    token = jnp.where(free, token[:, None], prompt_token)
    token = jnp.where(state.ended, 0, token)
    counts = jnp.squeeze(free & ~state.ended, axis=1)
    sequences = state.sequences.at[jnp.arange(rows), index + 1].set(
      token[:, 0].astype(state.sequences.dtype)
    )
    ended = state.ended | (count_eos(sequences) > prompt_eos)
    return SamplingLoopState(
      step=state.step + 1,
      cur_index=index + 1,
      sequences=sequences,
      cache=cache,
      cur_token=token,
      ended=ended | (index >= limits - 1)[:, None],
      rng=rng,
      log_prob=state.log_prob + jnp.where(counts, log_prob, 0.0),
    )

  state = lax.while_loop(
    lambda state: ~jnp.all(state.ended),
    step,
    SamplingLoopState(
      step=jnp.zeros((), jnp.int32),
      cur_index=start,
      sequences=sequences,
      cache=cache,
      cur_token=first_token,
      ended=jnp.zeros((rows, 1), jnp.bool_),
      rng=prng_key,
      log_prob=jnp.zeros((rows,), jnp.float32),
    ),
  )
  if state_callback_fn is not None:
    state = state_callback_fn(state)
  return state.sequences[:, 1:-1], state.log_prob
