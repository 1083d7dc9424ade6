"""The beams of a search: those that grow, those that ended, their scores."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fnet_t5x.runtime.beam_utils import NEG_INF, Cache, add_beam_dim, cache_map


def brevity_penalty(
  alpha: float, length: int | Int[Array, '...']
) -> Float[Array, '...']:
  """((5 + length) / 6)^alpha, which divides log-probabilities.

  Wu et al. 2016, arXiv 1609.08144, equation 14.

  Args:
    alpha: strength; 0 leaves log-probabilities as they are.
    length: number of tokens.

  Returns:
    The penalty, 1 for one token.
  """
  return jnp.power((5.0 + length) / 6.0, alpha)


@flax.struct.dataclass
class BeamState:
  """Beams that still grow (live) and beams that ended, worst first.

  Attributes:
    cur_index: scalar, the position in `live_seqs` to feed next.
    live_logprobs: [batch, beam] log-probabilities of live beams.
    finished_scores: [batch, beam] penalised log-probabilities.
    live_seqs: [batch, beam, length + 1] tokens, behind a first one that is
      not part of the output.
    finished_seqs: [batch, beam, length + 1], likewise.
    finished_flags: [batch, beam] whether a finished slot is taken.
    cache: the network's cache, [batch, beam, ...].
    initial_index: [batch] lengths of prefilled prompts, 0 without.
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
  """The state before the first step.

  All beams are copies, so all but the first start as good as dead: otherwise
  the search would find the same sequence many times.

  Args:
    batch_size: batch.
    beam_size: beam.
    max_decode_len: length of the sequences' buffers.
    cache: the network's cache, [batch, ...].
    offset: position of the cache's batch axis.
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
