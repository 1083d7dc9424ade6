"""Beam search with a length penalty, forced prompts and prefilled prompts.

A cache is a nested mapping of arrays whose batch axis is 0, or `offset` where
layers are scanned. In the decoding loops every batch axis becomes [batch,
beam], or [batch * beam] with the beams of an example adjacent.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.core
import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from fnet_t5x import number_ranges

# Finite stand-in for minus infinity: differences of two are not NaN.
NEG_INF_VALUE = -1.0e7
NEG_INF = np.array(NEG_INF_VALUE)

# Leaves without a beam axis (T5X's names): those without a batch axis, and our
# cross-attention's, which have one row per example.
_WITHOUT_BEAMS = ('cached_bias', 'position_embedder_index')

# State that a full example keeps; the rest of its cache is no longer read.
_PER_EXAMPLE = (
  'live_logprobs',
  'live_seqs',
  'finished_scores',
  'finished_seqs',
  'finished_flags',
)

Cache = Mapping[str, Any]


@flax.struct.dataclass
class DecodingState:
  """State of the decoding loop that the network sees.

  Rows are beams or samples; those of one example are adjacent.

  Attributes:
    cur_index: position of `cur_token`: [rows], or a scalar shared by all rows.
    sequences: [rows, length] tokens so far.
    cur_token: [rows, 1] tokens to feed.
    cache: the network's cache.
  """

  cur_index: jax.Array
  sequences: jax.Array
  cur_token: jax.Array
  cache: Cache


TokensToLogits = Callable[[DecodingState], tuple[jax.Array, Cache]]


def is_traced(value) -> bool:
  return isinstance(value, jax.core.Tracer)


def cache_map(
  fn: Callable[[Array], Array], cache: Cache, apply_to_index: bool = False
) -> Cache:
  """Applies `fn` to the leaves of a cache that have a beam axis.

  Args:
    fn: function of one leaf.
    cache: nested mapping; a FrozenDict stays one.
    apply_to_index: whether leaves named `cache_index` have a batch axis, as
      they do after a prefill of prompts of different lengths.

  Returns:
    The cache, its other leaves unchanged.
  """
  skipped = _WITHOUT_BEAMS
  if not apply_to_index:
    skipped = (*skipped, 'cache_index')
  frozen = isinstance(cache, flax.core.FrozenDict)
  flat = flax.traverse_util.flatten_dict(
    flax.core.unfreeze(cache) if frozen else cache, keep_empty_nodes=True
  )
  empty = flax.traverse_util.empty_node
  mapped = flax.traverse_util.unflatten_dict(
    {
      path: leaf if leaf is empty or path[-1] in skipped else fn(leaf)
      for path, leaf in flat.items()
    }
  )
  return flax.core.freeze(mapped) if frozen else mapped


def add_beam_dim(x: Array, beam_size: int, offset: int = 0) -> Array:
  """[batch, ...] -> [batch, beam, ...], all beams equal."""
  shape = list(x.shape)
  shape.insert(offset + 1, beam_size)
  return jnp.broadcast_to(jnp.expand_dims(x, offset + 1), shape)


def flatten_beam_dim(x: Array, offset: int = 0) -> Array:
  """[batch, beam, ...] -> [batch * beam, ...]."""
  batch, beam = x.shape[offset : offset + 2]
  return x.reshape(*x.shape[:offset], batch * beam, *x.shape[offset + 2 :])


def unflatten_beam_dim(
  x: Array, batch_size: int, beam_size: int, offset: int = 0
) -> Array:
  """[batch * beam, ...] -> [batch, beam, ...]."""
  return x.reshape(
    *x.shape[:offset], batch_size, beam_size, *x.shape[offset + 1 :]
  )


def flat_batch_beam_expand(x: Array, beam_size: int, offset: int = 0) -> Array:
  """[batch, ...] -> [batch * beam, ...], copies of an example adjacent."""
  return flatten_beam_dim(add_beam_dim(x, beam_size, offset), offset)


def gather_beams(
  nested: PyTree,
  beam_indices: Int[Array, 'batch new_beam'],
  batch_size: int,
  old_beam_size: int,
  new_beam_size: int,
  one_hot: bool = False,
) -> PyTree:
  """Picks beams: [batch, old_beam, ...] -> [batch, new_beam, ...].

  Args:
    nested: tree of arrays.
    beam_indices: the old beam that each new one continues.
    batch_size: batch.
    old_beam_size: old_beam.
    new_beam_size: new_beam.
    one_hot: whether to pick by a matrix product with one-hot rows, at `beam`
      times the cost, for compilers that cannot partition a batched gather.

  Returns:
    The tree of new beams, with the same dtypes.
  """
  del batch_size, new_beam_size
  return jax.tree.map(
    lambda x: _pick(x, beam_indices, old_beam_size, one_hot), nested
  )


def cache_gather_beams(
  nested: Cache,
  beam_indices: Int[Array, 'batch new_beam'],
  batch_size: int,
  old_beam_size: int,
  new_beam_size: int,
  one_hot: bool = False,
  offset: int = 0,
) -> Cache:
  """`gather_beams` for the leaves of a cache that have a beam axis.

  `cache_index` is unchanged: all beams of an example have the same length.
  """
  del batch_size, new_beam_size

  def pick(x):
    return _pick(x, beam_indices, old_beam_size, one_hot)

  for _ in range(offset):
    pick = jax.vmap(pick)
  return cache_map(pick, nested)


def _pick(x, beam_indices, old_beam_size, one_hot):
  if one_hot:
    rows = jax.nn.one_hot(beam_indices, old_beam_size, dtype=jnp.int32)
    return jnp.einsum('bno,bo...->bn...', rows, x).astype(x.dtype)
  return jax.vmap(lambda beams, picked: beams[picked])(x, beam_indices)


def top_k_two_stage(
  x: Float[Array, 'batch candidates'], k: int
) -> tuple[Float[Array, 'batch k'], Int[Array, 'batch k']]:
  """`lax.top_k`, in two stages where few rows would leave TPU lanes idle.

  Each row is split into 128 pieces; the top k of each are found in parallel,
  then the top k of those 128 k. Ties go to the lower index, as in `lax.top_k`.

  Args:
    x: values.
    k: number of values to return.

  Returns:
    The largest values in decreasing order, and their indices.
  """
  batch, candidates = x.shape
  pieces = 128
  # A symbolic batch (`jax.export`) may be any.
  many = not isinstance(batch, int) or batch > 8
  if many or candidates <= 8 * pieces * k:
    return lax.top_k(x, k)
  piece = -(-candidates // pieces)
  padding = ((0, 0), (0, pieces * piece - candidates))
  x = jnp.pad(x, padding, constant_values=-np.inf)
  values, indices = lax.top_k(x.reshape(batch, pieces, piece), k)
  indices = indices + piece * jnp.arange(pieces).reshape(1, pieces, 1)
  values, picked = lax.top_k(values.reshape(batch, pieces * k), k)
  indices = indices.reshape(batch, pieces * k)
  return values, jnp.take_along_axis(indices, picked, axis=1)


def gather_topk_beams(
  nested: PyTree,
  score_or_log_prob: Float[Array, 'batch old_beam'],
  batch_size: int,
  new_beam_size: int,
) -> PyTree:
  """Keeps the beams with the largest scores, in increasing order of score."""
  best = top_k_increasing(score_or_log_prob, new_beam_size)
  return gather_beams(
    nested, best, batch_size, score_or_log_prob.shape[1], new_beam_size
  )


def top_k_increasing(
  scores: Float[Array, 'batch beam'], k: int
) -> Int[Array, 'batch k']:
  """Indices of the k largest scores, the largest last."""
  return jnp.flip(lax.top_k(scores, k)[1], axis=1)


def brevity_penalty(
  alpha: float, length: int | Int[Array, '...']
) -> Float[Array, '...']:
  """((5 + length) / 6)^alpha, the divisor of log-probabilities.

  Wu et al. 2016, arXiv 1609.08144, equation 14.

  Args:
    alpha: strength; 0 leaves log-probabilities unchanged.
    length: number of tokens.

  Returns:
    The penalty, 1 for one token.
  """
  return jnp.power((5.0 + length) / 6.0, alpha)


@flax.struct.dataclass
class BeamState:
  """Live beams, which still grow, and finished beams, both worst first.

  Attributes:
    cur_index: scalar, the position in `live_seqs` to feed next.
    live_logprobs: [batch, beam] log-probabilities of live beams.
    finished_scores: [batch, beam] length-penalised log-probabilities.
    live_seqs: [batch, beam, length + 1] tokens after a leading one that is
      not part of the output.
    finished_seqs: [batch, beam, length + 1], likewise.
    finished_flags: [batch, beam] whether a finished slot is in use.
    cache: the network's cache, [batch, beam, ...].
    initial_index: [batch] lengths of prefilled prompts, 0 without prefill.
  """

  cur_index: jax.Array
  live_logprobs: jax.Array
  finished_scores: jax.Array
  live_seqs: jax.Array
  finished_seqs: jax.Array
  finished_flags: jax.Array
  cache: Cache
  initial_index: jax.Array | None


def beam_init(
  batch_size: int,
  beam_size: int,
  max_decode_len: int,
  cache: Cache,
  offset: int = 0,
  live_seqs: Int[Array, 'batch beam length'] | None = None,
  initial_index: Int[Array, ' batch'] | None = None,
) -> BeamState:
  """Returns the state before the first step.

  All beams start equal, so all but the first start with probability almost 0:
  otherwise the search would find the same sequence in every beam.

  Args:
    batch_size: batch.
    beam_size: beam.
    max_decode_len: length of the sequence buffers.
    cache: the network's cache, [batch, ...].
    offset: index of the cache's batch axis.
    live_seqs: buffers that start with the last token of prefilled prompts.
    initial_index: lengths of prefilled prompts.

  Returns:
    The state.
  """
  empty = jnp.zeros((batch_size, beam_size, max_decode_len), jnp.int32)
  worst = jnp.full((batch_size, beam_size), NEG_INF, jnp.float32)
  return BeamState(
    cur_index=jnp.array(0),
    live_logprobs=worst.at[:, 0].set(0.0),
    finished_scores=worst,
    live_seqs=empty if live_seqs is None else live_seqs,
    finished_seqs=empty,
    finished_flags=jnp.zeros((batch_size, beam_size), jnp.bool_),
    cache=cache_map(
      lambda x: add_beam_dim(x, beam_size, offset),
      cache,
      apply_to_index=live_seqs is not None,
    ),
    initial_index=initial_index,
  )


@dataclasses.dataclass(frozen=True)
class _Search:
  """Condition and body of the search loop, with its loop invariants.

  Attributes:
    tokens_to_logits: one step of the network.
    forced: [batch, length + 1] tokens that every beam must take; 0: none.
    prefilled: whether the cache holds prompts.
    eos_id: the token that ends a beam.
    alpha: strength of the length penalty.
    buffer_length: length + 1.
    max_decode_step: maximum number of steps; negative for no limit.
    min_log_prob: the search stops when no live beam is above it.
    cache_offset: index of the cache's batch axis.
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

  def should_continue(self, state: BeamState) -> Array:
    """Whether another step is allowed and can still change the result."""
    out_of_steps = (self.max_decode_step > 0) & (
      state.cur_index >= self.max_decode_step
    )
    # Upper bound of a live beam's final score: log-probabilities only fall as
    # beams grow, and the penalty is largest at full length.
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
    """Returns [batch] whether each example may still grow."""
    return state.initial_index + state.cur_index < self.buffer_length - 1

  def step(self, state: BeamState) -> BeamState:
    """Extends live beams by one token, in examples that have room for it."""
    grown = self._grow(state)
    if not self.prefilled:
      return grown
    # An example with a longer prompt is full before the others. If it kept
    # growing, its result would depend on the rest of the batch.
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

    # Twice the beams: even if `beam` of them end at this step, `beam` remain
    # live.
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
    """Returns the next tokens' logits [batch, beam, vocab], and the cache."""
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
    """Forces the prompt's token on all candidates, of which one stays live."""
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
  """Finds likely sequences by beam search, `num_decodes` beams per example.

  Unfinished sequences (without EOS) are returned only for examples in which no
  sequence finished. Prefilled prompts of different lengths share one loop; each
  example stops at `max_decode_len`, independently of the rest of the batch, and
  returns what the search finds when prompts are fed token by token. (T5X
  continues until the example with the shortest prompt is full, and truncates
  the others.)

  Args:
    inputs: a 0, then the prompt, then zeros. Prompt tokens add no
      log-probability.
    cache: the network's cache, [batch, ...].
    tokens_to_logits: one step of the network: logits [batch * num_decodes,
      vocab] of the next token, and the new cache.
    eos_id: the token that ends a sequence.
    num_decodes: beams.
    alpha: strength of `brevity_penalty`.
    max_decode_len: maximum number of tokens, prompt included; None for the
      length of the inputs.
    max_decode_step: maximum number of steps after a prefilled prompt; -1 for no
      limit.
    min_log_prob: the search stops when no live beam has a higher
      log-probability.
    decode_rng: unused; part of the common signature of decoding functions.
    cache_offset: index of the cache's batch axis, 1 for scanned layers.
    initial_index: lengths of the prompts, if the cache holds them; None to
      feed the prompts token by token.

  Returns:
    Token ids without the leading 0, and length-penalised log-probabilities in
    nats, both in increasing order of the latter.

  Raises:
    ValueError: alpha is negative, or num_decodes or max_decode_len is below 1.
  """
  del decode_rng
  if not is_traced(alpha):
    # With a negative alpha the bound on the scores of live beams does not hold:
    # the search would stop at once, with no result.
    number_ranges.check('alpha', alpha, 0)
  number_ranges.check('num_decodes', num_decodes, 1, whole=True)
  if max_decode_len is not None:
    number_ranges.check('max_decode_len', max_decode_len, 1, whole=True)
  batch = inputs.shape[0]
  length = inputs.shape[1] if max_decode_len is None else max_decode_len
  inputs = jnp.asarray(inputs, jnp.int32)
  prefilled = initial_index is not None
  if prefilled:
    # The loop starts at the last prompt token, in column 0 of every row.
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
    # One spare column, so that the lookup at cur_index + 1 is never clamped.
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
  state = lax.while_loop(search.should_continue, search.step, state)

  any_finished = jnp.any(state.finished_flags, axis=1)[:, None]
  scores = jnp.where(any_finished, state.finished_scores, state.live_logprobs)
  sequences = jnp.where(
    any_finished[:, :, None], state.finished_seqs, state.live_seqs
  )[:, :, 1:]
  if prefilled:
    sequences = _prepend_prompts(inputs, initial_index, sequences)
  return sequences, scores


def _prepend_prompts(inputs, initial_index, sequences):
  """Returns sequences [batch, beam, length] with their prompts prepended."""
  length = sequences.shape[-1]
  missing = max(0, length + 1 - inputs.shape[1])
  prompts = jnp.pad(inputs, ((0, 0), (0, missing)))[:, 1 : length + 1]
  # Column i holds prompt token i, or token i - initial_index of the sequence.
  source = jnp.arange(length)[None, :] - initial_index[:, None]
  moved = jnp.take_along_axis(
    sequences, jnp.maximum(source, 0)[:, None, :], axis=-1
  )
  return jnp.where(source[:, None, :] < 0, prompts[:, None, :], moved)
