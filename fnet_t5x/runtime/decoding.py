"""Greedy decoding and sampling, one token at a time.

T5X's `decoding` includes beam search: those names are imported from
`beam_search`.
"""

import functools
from collections.abc import Callable

import flax.core
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from fnet_t5x import number_ranges
from fnet_t5x.runtime.beam_search import (  # noqa: F401 (T5X's names)
  NEG_INF,
  NEG_INF_VALUE,
  BeamState,
  Cache,
  DecodingState,
  TokensToLogits,
  add_beam_dim,
  beam_init,
  beam_search,
  brevity_penalty,
  cache_gather_beams,
  cache_map,
  flat_batch_beam_expand,
  flatten_beam_dim,
  gather_beams,
  gather_topk_beams,
  is_traced,
  top_k_two_stage,
  unflatten_beam_dim,
)

# Temperatures up to this one mean greedy decoding.
MIN_TEMPERATURE = np.array(1e-4)
# Columns beyond the output: one for the leading 0, which the output drops, and
# one that finished rows write to while they wait for the others.
_SPARE_COLUMNS = 2
# Of NumPy: one of JAX would initialize it at import.
_FLOAT32_SIGN_FREE = np.int32(0x7FFFFFFF)


@flax.struct.dataclass
class SamplingLoopState:
  """State of the sampling loop, which callbacks may read and change.

  A row is one sample of one example; the rows of an example are adjacent.

  Attributes:
    step: scalar, number of steps so far.
    cur_index: [rows] position of `cur_token`.
    sequences: [rows, length + 2] tokens, the prompts included.
    cache: the network's cache.
    cur_token: [rows, 1] token to feed next.
    ended: [rows, 1] whether the row is finished.
    rng: key for the remaining steps.
    log_prob: [rows] log-probability in nats of the tokens sampled so far.
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

  A row ends at the first EOS after its prompt; zeros follow. Rows with longer
  prompts may finish early and wait for the others.

      inputs  [0, 5, 1, 0, 0, 0]    prompt 5, 1
      output  [5, 1, a, b, EOS, 0]  a: sampled after 1

  Args:
    inputs: a 0, then the prompt, then zeros. Prompt tokens are forced and add
      no log-probability.
    cache: the network's cache, [batch, ...].
    tokens_to_logits: one step of the network: logits [batch * num_decodes,
      vocab] of the next token, and the new cache.
    eos_id: the token that ends a sequence.
    decode_rng: key; PRNGKey(0) where None.
    num_decodes: samples per example.
    temperature: divides the logits; one number, or one per example.
    topk: sample from the k most likely tokens; 0 for all.
    topp: sample from the most likely tokens of this total probability; 0 for
      all. Excludes topk.
    cache_offset: index of the cache's batch axis, 1 for scanned layers.
    initial_index: [batch] lengths of the prompts if the cache holds them: the
      loop starts at their last tokens. None to feed them token by token.
    max_decode_steps: maximum number of tokens to generate after the prompt;
      None for as many as fit.
    max_decode_steps_hard_limit: static upper bound of max_decode_steps.
    rescale_log_probs: whether log-probabilities are those of the distribution
      sampled from (0 for greedy) or those of the network.
    state_callback_fn: changes the state before each step and at the end.
    logit_callback_fn: changes the logits before each token is chosen.

  Returns:
    Token ids without the leading 0, and log-probabilities in nats, both in
    increasing order of the latter; NaN where a logit was NaN.

  Raises:
    ValueError: both topk and topp are set, max_decode_steps exceeds the length
      of the inputs, or a number is out of range.
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
  """Checks that numbers are in range; traced ones are not known yet."""
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
  """`temperature_sample` with one sample per row, in row order."""
  if not (is_traced(topk) or is_traced(topp)) and topk and topp:
    raise ValueError(
      f'topk={topk} and topp={topp}: set at most one of the two, the other to 0'
    )
  inputs = jnp.asarray(inputs, jnp.int32)
  rows, length = inputs.shape
  # Maximum length of each row.
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

  # Prompts often end in EOS too: a row is finished when it has one more.
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
    # Otherwise the scores of a broken network would look like a uniform one's.
    broken = jnp.any(jnp.isnan(logits), axis=-1)
    log_prob = jnp.where(broken, jnp.nan, log_prob)

    # Finished rows stay one past their limit.
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


def choose_tokens(
  rng: jax.Array,
  logits: Float[Array, 'rows vocab'],
  temperature: float | Float[Array, '...'],
  num_decodes: int,
  *,
  topk: int,
  topp: float,
  rescale_log_probs: bool,
) -> tuple[Int[Array, ' rows'], Float[Array, ' rows']]:
  """Samples the next token of each row.

  Args:
    rng: key; unused in greedy decoding.
    logits: unnormalised log-probabilities.
    temperature: one number, or one per example.
    num_decodes: number of adjacent rows per example.
    topk: number of tokens to sample from, 0 for all, 1 for greedy.
    topp: total probability of the tokens to sample from, 0 for all.
    rescale_log_probs: whether log-probabilities are those of the distribution
      sampled from or those of the given logits.

  Returns:
    The tokens, and their log-probabilities in nats.
  """
  temperature = jnp.asarray(temperature)
  choose = functools.partial(
    _choose_at_one_temperature,
    rng,
    topk=topk,
    topp=topp,
    rescale_log_probs=rescale_log_probs,
  )
  if temperature.ndim == 0:
    return choose(logits, temperature)
  # One temperature per example. All rows share the noise of a single row.
  tokens, log_probs = jax.vmap(choose)(
    logits[:, None, :], jnp.repeat(temperature, num_decodes)
  )
  return tokens[:, 0], log_probs[:, 0]


def _choose_at_one_temperature(
  rng, logits, temperature, *, topk, topp, rescale_log_probs
):
  """`choose_tokens` with one temperature for all rows."""

  def log_prob_of(token, scaled_logits):
    log_probs = jax.nn.log_softmax(
      scaled_logits if rescale_log_probs else logits
    )
    return jnp.take_along_axis(log_probs, token[:, None], axis=-1)[:, 0]

  scaled = logits / jnp.maximum(temperature, MIN_TEMPERATURE)

  def sample():
    masked = scaled
    if is_traced(topk):
      masked = jnp.where(topk > 0, topk_mask(masked, topk, NEG_INF), masked)
    elif topk:
      masked = topk_mask(masked, topk, NEG_INF)
    if is_traced(topp) or topp:
      masked = topp_mask(masked, topp, NEG_INF)
    token = jax.random.categorical(rng, masked).astype(jnp.int32)
    return token, log_prob_of(token, masked).astype(jnp.float32)

  def take_best():
    token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if rescale_log_probs:
      return token, jnp.zeros(token.shape, jnp.float32)
    return token, log_prob_of(token, logits).astype(jnp.float32)

  greedy = temperature <= MIN_TEMPERATURE
  if not is_traced(topk) and topk == 1:
    # A single candidate needs no noise; ties are broken at random.
    peaks = jnp.max(scaled, axis=-1, keepdims=True)
    greedy = greedy | jnp.all(jnp.sum(scaled == peaks, axis=-1) == 1)
  return lax.cond(greedy, take_best, sample)


def topk_mask(
  logits: Float[Array, '*batch vocab'],
  k: int | Int[Array, ''],
  replace_val: float,
) -> Float[Array, '*batch vocab']:
  """Replaces all logits below the k-th largest of their row.

  Args:
    logits: unnormalised log-probabilities.
    k: number of logits to keep, and those that tie with the k-th. May be
      traced, at the cost of 32 passes over the vocabulary instead of one.
    replace_val: replacement for the others.

  Returns:
    The masked logits.
  """
  if is_traced(k):

    def fewer_than_k_above(threshold):
      return jnp.sum(logits > threshold, axis=-1, keepdims=True) < k

    # The k-th largest is the smallest number with fewer than k above it.
    cutoff = -_largest_where(
      (*logits.shape[:-1], 1), lambda x: fewer_than_k_above(-x)
    )
  else:
    cutoff = lax.top_k(logits, min(int(k), logits.shape[-1]))[0][..., -1:]
  # Minus infinity is never kept, even if k is larger.
  lowest = jnp.finfo(jnp.float32).min
  keep = logits >= jnp.maximum(cutoff, lowest)
  return jnp.where(keep, logits, jnp.asarray(replace_val, logits.dtype))


def topp_mask(
  logits: Float[Array, '*batch vocab'],
  p: float | Float[Array, ''],
  replace_val: float,
) -> Float[Array, '*batch vocab']:
  """Keeps the most likely tokens whose total probability is at least p.

  Nucleus sampling, Holtzman et al. 2019, arXiv 1904.09751. The smallest
  probability to keep is found by bisection in 32 passes over the vocabulary,
  which is faster than a sort on accelerators; all tokens that tie with it are
  kept.

  Args:
    logits: unnormalised log-probabilities.
    p: probability to cover; 0 keeps all.
    replace_val: replacement for the other logits.

  Returns:
    The masked logits.
  """
  probs = jax.nn.softmax(logits, axis=-1)

  def covers_p(threshold):
    kept = jnp.where(probs >= threshold, probs, 0.0)
    # p > 0: every threshold covers probability 0.
    return (jnp.sum(kept, axis=-1, keepdims=True) >= p) & (p > 0)

  threshold = _largest_where((*logits.shape[:-1], 1), covers_p)
  return jnp.where(
    probs >= threshold, logits, jnp.asarray(replace_val, logits.dtype)
  )


def _largest_where(
  shape: tuple[int, ...],
  holds: Callable[[Float[Array, '...']], Bool[Array, '...']],
) -> Float[Array, '...']:
  """Returns the largest finite float32 that satisfies a predicate, elementwise.

  Finite float32 numbers sort like their bit patterns once those of negative
  numbers are flipped, so bisection takes one step per bit.

  Args:
    shape: of the result.
    holds: predicate that is true up to some number and false above it.

  Returns:
    The largest number, exactly, where `holds` is true; the lowest float32 where
    it never is.
  """
  limits = jnp.finfo(jnp.float32)

  def to_float(ordered):
    bits = jnp.where(ordered < 0, ordered ^ _FLOAT32_SIGN_FREE, ordered)
    return lax.bitcast_convert_type(bits, jnp.float32)

  def to_ordered(number):
    bits = lax.bitcast_convert_type(jnp.float32(number), jnp.int32)
    return jnp.where(bits < 0, bits ^ _FLOAT32_SIGN_FREE, bits)

  def narrow(_, bounds):
    low, high = bounds
    # (low + high + 1) / 2 without overflow.
    middle = (low >> 1) + (high >> 1) + ((low | high) & 1)
    true = holds(to_float(middle))
    return jnp.where(true, middle, low), jnp.where(true, high, middle - 1)

  low = jnp.full(shape, to_ordered(limits.min))
  high = jnp.full(shape, to_ordered(limits.max))
  low, _ = lax.fori_loop(0, 32, narrow, (low, high))
  return to_float(low)


def repeating_tokens(
  tokens: Int[Array, 'rows length'],
  count: int | Int[Array, ''],
  size: int,
  vocab_size: int,
) -> Bool[Array, 'rows vocab']:
  """Finds tokens that would repeat an n-gram of the text.

  With n = 3 and the text a b c a b, that is c: a b c would occur twice.

  Args:
    tokens: the texts; only the first `count` tokens are considered.
    count: number of tokens in each text; may be traced.
    size: n, at least 1. With 1 no token may occur twice.
    vocab_size: number of ids in the vocabulary.

  Returns:
    True for tokens that must not follow.
  """
  rows, length = tokens.shape
  banned = jnp.zeros((rows, vocab_size), bool)
  starts = length - size + 1
  if starts < 1:
    return banned
  # The last n - 1 tokens, compared at every start that a next token follows.
  # (With fewer tokens the slice is meaningless, but nothing matches.)
  last = jax.lax.dynamic_slice_in_dim(tokens, count - (size - 1), size - 1, 1)
  follows = jnp.arange(starts)[None, :] + size - 1 < count
  match = jnp.broadcast_to(follows, (rows, starts))
  for i in range(size - 1):
    match &= tokens[:, i : i + starts] == last[:, i : i + 1]
  following = tokens[:, size - 1 :]
  return banned.at[jnp.arange(rows)[:, None], following].max(match)
