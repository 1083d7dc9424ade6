"""Beam search with a length penalty, forced prompts and prefilled prompts."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from fnet_t5x import number_ranges
from fnet_t5x.runtime.beam_state import BeamState, beam_init, brevity_penalty
from fnet_t5x.runtime.beam_utils import (
  NEG_INF,
  NEG_INF_VALUE,
  Cache,
  DecodingState,
  add_beam_dim,
  cache_gather_beams,
  cache_map,
  flatten_beam_dim,
  gather_beams,
  gather_topk_beams,
  top_k_increasing,
  top_k_two_stage,
  unflatten_beam_dim,
)
from fnet_t5x.runtime.token_choice import is_traced

TokensToLogits = Callable[[DecodingState], tuple[jax.Array, Cache]]


# What an example keeps when it is full; the rest of its cache is not read.
_PER_EXAMPLE = (
  'live_logprobs',
  'live_seqs',
  'finished_scores',
  'finished_seqs',
  'finished_flags',
)


@dataclasses.dataclass(frozen=True)
class _Search:
  """The two functions of the search's loop, and what does not change in it.

  Attributes:
    tokens_to_logits: one step of the network.
    forced: [batch, length + 1] tokens that every beam must take; 0: none.
    prefilled: whether the cache holds prompts.
    eos_id: the token that ends a beam.
    alpha: strength of the length penalty.
    buffer_length: length + 1.
    max_decode_step: most steps to make; < 0: no such limit.
    min_log_prob: stop when no live beam is above it.
    cache_offset: position of the cache's batch axis.
  """

  tokens_to_logits: TokensToLogits
  forced: jax.Array
  prefilled: bool
  eos_id: int
  alpha: float
  buffer_length: int
  max_decode_step: int
  min_log_prob: float
  cache_offset: int

  def goes_on(self, state: BeamState) -> Array:
    """Whether another step is allowed and can still change the result."""
    out_of_steps = (self.max_decode_step > 0) & (
      state.cur_index >= self.max_decode_step
    )
    # Log-probabilities only fall as beams grow, and the penalty is largest at
    # full length: the best that a live beam can still reach.
    penalty = brevity_penalty(self.alpha, self.buffer_length)
    best_live = state.live_logprobs[:, -1:] / penalty
    worst_finished = jnp.where(
      state.finished_flags, state.finished_scores[:, :1], NEG_INF
    )
    settled = jnp.all(worst_finished > best_live, axis=1)
    all_unlikely = (state.cur_index > 0) & jnp.all(
      best_live < self.min_log_prob / penalty
    )
    unsettled = jnp.any(self._has_room(state) & ~settled)
    return unsettled & ~out_of_steps & ~all_unlikely

  def _has_room(self, state):
    """Which examples [batch] may still grow."""
    return state.initial_index + state.cur_index < self.buffer_length - 1

  def step(self, state: BeamState) -> BeamState:
    """Grows live beams by one token, in the examples that have room for it."""
    grown = self._grow(state)
    if not self.prefilled:
      return grown
    # An example with a longer prompt is full before the others. It must not
    # grow on, or its neighbours would decide what it returns.
    has_room = self._has_room(state)

    def keep(old, new):
      return jnp.where(has_room.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    return grown.replace(
      **{
        name: keep(getattr(state, name), getattr(grown, name))
        for name in _PER_EXAMPLE
      }
    )

  def _grow(self, state):
    batch, beam, _ = state.live_seqs.shape
    logits, cache = self._call_network(state)
    log_probs = jax.nn.log_softmax(logits) + state.live_logprobs[:, :, None]

    # Twice the beams: should as many as `beam` of them end right now, as many
    # are left to go on.
    vocab = log_probs.shape[-1]
    log_probs, picked = top_k_two_stage(
      log_probs.reshape(batch, beam * vocab), k=2 * beam
    )
    parents, tokens = picked // vocab, picked % vocab
    log_probs, tokens = self._force_prompt(state, log_probs, tokens)

    position = state.cur_index + 1
    seqs = gather_beams(state.live_seqs, parents, batch, beam, 2 * beam)
    seqs = lax.dynamic_update_slice(seqs, tokens[:, :, None], (0, 0, position))
    ended = tokens == self.eos_id

    still_live = log_probs + jnp.where(ended, NEG_INF_VALUE, 0.0)
    chosen = top_k_increasing(still_live, beam)
    live_seqs, live_logprobs, parents = gather_beams(
      (seqs, still_live, parents), chosen, batch, 2 * beam, beam
    )
    lengths = state.initial_index[:, None] + position
    scores = log_probs / brevity_penalty(self.alpha, lengths)
    scores = scores + jnp.where(ended, 0.0, NEG_INF_VALUE)
    finished = (
      jnp.concatenate([state.finished_seqs, seqs], axis=1),
      jnp.concatenate([state.finished_scores, scores], axis=1),
      jnp.concatenate([state.finished_flags, ended], axis=1),
    )
    finished_seqs, finished_scores, finished_flags = gather_topk_beams(
      finished, finished[1], batch, beam
    )
    return BeamState(
      cur_index=position,
      live_logprobs=live_logprobs,
      finished_scores=finished_scores,
      live_seqs=live_seqs,
      finished_seqs=finished_seqs,
      finished_flags=finished_flags,
      cache=cache_gather_beams(
        cache, parents, batch, beam, beam, offset=self.cache_offset
      ),
      initial_index=state.initial_index,
    )

  def _call_network(self, state):
    """Logits [batch, beam, vocab] after the current tokens, and the cache."""
    batch, beam, _ = state.live_seqs.shape
    map_cache = functools.partial(cache_map, apply_to_index=self.prefilled)
    tokens = lax.dynamic_slice_in_dim(state.live_seqs, state.cur_index, 1, 2)
    logits, cache = self.tokens_to_logits(
      DecodingState(
        cur_index=state.cur_index,
        sequences=flatten_beam_dim(state.live_seqs),
        cur_token=flatten_beam_dim(tokens),
        cache=map_cache(
          lambda x: flatten_beam_dim(x, self.cache_offset), state.cache
        ),
      )
    )
    cache = map_cache(
      lambda x: unflatten_beam_dim(x, batch, beam, self.cache_offset), cache
    )
    return unflatten_beam_dim(logits, batch, beam), cache

  def _force_prompt(self, state, log_probs, tokens):
    """Inside a prompt all candidates take its token, and one stays alive."""
    forced = lax.dynamic_slice_in_dim(self.forced, state.cur_index + 1, 1, 1)
    first = jnp.arange(tokens.shape[1])[None, :] == 0
    inside = jnp.where(first, 0.0, NEG_INF).astype(log_probs.dtype)
    return (
      jnp.where(forced == 0, log_probs, inside),
      jnp.where(forced == 0, tokens, forced),
    )


def beam_search(
  inputs: Int[Array, 'batch length'],
  cache: Cache,
  tokens_to_logits: TokensToLogits,
  eos_id: int,
  num_decodes: int = 4,
  alpha: float = 0.6,
  max_decode_len: int | None = None,
  max_decode_step: int = -1,
  min_log_prob: float = NEG_INF_VALUE,
  decode_rng: jax.Array | None = None,
  cache_offset: int = 0,
  initial_index: Int[Array, ' batch'] | None = None,
) -> tuple[
  Int[Array, 'batch num_decodes length'], Float[Array, 'batch num_decodes']
]:
  """Finds likely sequences, keeping `num_decodes` candidates an example.

  Sequences that never reached EOS are returned only for examples in which no
  sequence did. Prefilled prompts of different lengths share one loop; an
  example stops at `max_decode_len`, whatever its neighbours do, with what the
  search finds when prompts are fed token by token. (T5X's grows on until the
  shortest prompt's example is full, and cuts the others.)

  Args:
    inputs: a 0, then the prompt, then zeros. Prompts cost no log-probability.
    cache: the network's cache, [batch, ...].
    tokens_to_logits: one step of the network: logits [batch * num_decodes,
      vocab] of the next token, and the new cache.
    eos_id: the token that ends a sequence.
    num_decodes: beams.
    alpha: strength of `brevity_penalty`.
    max_decode_len: most tokens, prompt included; None for the inputs' length.
    max_decode_step: most steps after a prefilled prompt; -1 for no limit.
    min_log_prob: stop when no live beam has a higher log-probability.
    decode_rng: not used; here so that decoding functions are called alike.
    cache_offset: position of the cache's batch axis, 1 for scanned layers.
    initial_index: lengths of the prompts, if the cache holds them; None to
      feed the prompts token by token.

  Returns:
    Token ids without the first 0, and penalised log-probabilities in nats,
    both in increasing order of the latter.

  Raises:
    ValueError: alpha is below 0, or a number below 1.
  """
  del decode_rng
  if not is_traced(alpha):
    # Below 0 longer beams would score worse than the search takes as a bound:
    # it would stop at once, with nothing.
    number_ranges.check('alpha', alpha, 0)
  number_ranges.check('num_decodes', num_decodes, 1, whole=True)
  if max_decode_len is not None:
    number_ranges.check('max_decode_len', max_decode_len, 1, whole=True)
  batch = inputs.shape[0]
  length = inputs.shape[1] if max_decode_len is None else max_decode_len
  inputs = jnp.asarray(inputs, jnp.int32)
  prefilled = initial_index is not None
  if prefilled:
    # The loop starts at the last prompt token, in one column for all rows.
    initial_index = jnp.asarray(initial_index, jnp.int32)
    start = jnp.take_along_axis(inputs, initial_index[:, None], axis=1)
    start = jnp.pad(start, ((0, 0), (0, length)))
    forced = jnp.zeros_like(inputs)
    live_seqs = add_beam_dim(start, num_decodes)
  else:
    forced = inputs
    initial_index = jnp.zeros((batch,), jnp.int32)
    live_seqs = None

  search = _Search(
    tokens_to_logits=tokens_to_logits,
    # One column more than positions that can be asked for.
    forced=jnp.pad(forced, ((0, 0), (0, max(0, length + 1 - forced.shape[1])))),
    prefilled=prefilled,
    eos_id=eos_id,
    alpha=alpha,
    buffer_length=length + 1,
    max_decode_step=max_decode_step,
    min_log_prob=min_log_prob,
    cache_offset=cache_offset,
  )
  state = beam_init(
    batch,
    num_decodes,
    length + 1,
    cache,
    cache_offset,
    live_seqs=live_seqs,
    initial_index=initial_index,
  )
  state = lax.while_loop(search.goes_on, search.step, state)

  any_finished = jnp.any(state.finished_flags, axis=1)[:, None]
  scores = jnp.where(any_finished, state.finished_scores, state.live_logprobs)
  sequences = jnp.where(
    any_finished[:, :, None], state.finished_seqs, state.live_seqs
  )[:, :, 1:]
  if prefilled:
    sequences = _behind_prompts(inputs, initial_index, sequences)
  return sequences, scores


def _behind_prompts(inputs, initial_index, sequences):
  """Moves sequences [batch, beam, length] behind their prompts, in place."""
  length = sequences.shape[-1]
  missing = max(0, length + 1 - inputs.shape[1])
  prompts = jnp.pad(inputs, ((0, 0), (0, missing)))[:, 1 : length + 1]
  # Column i holds prompt token i, or token i - initial_index of the sequence.
  source = jnp.arange(length)[None, :] - initial_index[:, None]
  moved = jnp.take_along_axis(
    sequences, jnp.maximum(source, 0)[:, None, :], axis=-1
  )
  return jnp.where(source[:, None, :] < 0, prompts[:, None, :], moved)
