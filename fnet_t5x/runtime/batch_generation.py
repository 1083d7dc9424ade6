"""Token generation after the prompts of a batch, as one traceable function.

A text depends on its prompt alone: rows neither share noise nor stop early
because others do, and a row without a prompt only fills up a batch.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from fnet_t5x.runtime import decoder_only, decoding, models
from fnet_t5x.runtime.generation_options import GenerationOptions

_LOWEST = float(np.finfo(np.float32).min)
_Model = models.EncoderDecoderModel | decoder_only.DecoderOnlyModel


@flax.struct.dataclass
class _State:
  """State of the sampling loop.

  Attributes:
    position: number of tokens so far.
    token: [batch, 1] to feed next.
    sequences: [batch, max_tokens] tokens so far.
    ended: [batch] whether a row is finished.
    finite: [batch] whether all logits of unfinished rows were finite.
    cache: the network's.
  """

  position: jax.Array
  token: jax.Array
  sequences: jax.Array
  ended: jax.Array
  finite: jax.Array
  cache: PyTree


def sample(
  model: _Model,
  params: PyTree,
  inputs: Int[Array, 'batch input_length'],
  may_begin: Bool[Array, '*batch vocab'],
  keys: jax.Array,
  *,
  length: int,
  max_tokens: int,
  options: GenerationOptions,
) -> tuple[Int[Array, 'batch max_tokens'], Bool[Array, ' batch']]:
  """Samples a text after each prompt; greedily if the temperature is 0.

  Args:
    model: the model.
    params: its parameters.
    inputs: prompts, padded with zeros; a row of zeros has no text.
    may_begin: whether each token of the vocabulary may be the first one.
    keys: one key per row.
    length: of the decoder, in tokens.
    max_tokens: maximum number of tokens to generate.
    options: temperature, top_k, top_p and no_repeat_ngram_size.

  Returns:
    Tokens up to EOS, then zeros; and whether the logits were finite.
  """
  eos_id, vocab_size = _ids(model)
  encoded, cache, token = model.start_generation(params, inputs, 1, length)
  rows = inputs.shape[0]

  def step(state: _State) -> _State:
    logits, cache = model.decode_step(
      params, encoded, state.cache, state.token, length
    )
    token, sequences, finite = choose(
      logits,
      state.sequences,
      state.position,
      keys,
      may_begin,
      options.sampling_temperature,
      topk=options.sampling_top_k,
      topp=options.top_p,
      ngram_size=options.no_repeat_ngram_size,
      vocab_size=vocab_size,
    )
    return _State(
      position=state.position + 1,
      token=token,
      sequences=sequences,
      ended=state.ended | (token[:, 0] == eos_id),
      finite=state.finite & (finite | state.ended),
      cache=cache,
    )

  state = jax.lax.while_loop(
    lambda state: (state.position < max_tokens) & ~jnp.all(state.ended),
    step,
    _State(
      position=jnp.zeros((), jnp.int32),
      token=token,
      sequences=jnp.zeros((rows, max_tokens), jnp.int32),
      ended=~_has_prompt(inputs),
      finite=jnp.ones((rows,), bool),
      cache=cache,
    ),
  )
  is_eos = state.sequences == eos_id
  after_eos = jnp.cumsum(is_eos, axis=1) - is_eos > 0
  kept = ~after_eos & _has_prompt(inputs)[:, None]
  return jnp.where(kept, state.sequences, 0), state.finite


def search(
  model: _Model,
  params: PyTree,
  inputs: Int[Array, 'batch input_length'],
  may_begin: Bool[Array, '*batch vocab'],
  *,
  length: int,
  max_tokens: int,
  num_beams: int,
  ngram_size: int,
) -> tuple[Int[Array, 'batch max_tokens'], Bool[Array, ' batch']]:
  """Returns the best text of beam search after each prompt.

  Args:
    model, params, inputs, may_begin, length, max_tokens: as in `sample`.
    num_beams: number of beams.
    ngram_size: length of n-grams that may not repeat in a text; 0 for none.

  Returns:
    As `sample`.
  """
  eos_id, vocab_size = _ids(model)
  encoded, cache, first = model.start_generation(params, inputs, 1, length)
  beams = None if encoded is None else encoded.repeat(num_beams)
  first = jnp.repeat(first, num_beams, axis=0)
  if may_begin.ndim == 2:
    may_begin = jnp.repeat(may_begin, num_beams, axis=0)

  def tokens_to_logits(state):
    # Beam search begins with 0, and knows no prompt.
    token = jnp.where(state.cur_index > 0, state.cur_token, first)
    logits, cache = model.decode_step(params, beams, state.cache, token, length)
    allowed = _allowed(
      logits.shape[-1],
      state.sequences[:, 1:],  # Without the initial 0.
      state.cur_index,
      may_begin,
      ngram_size,
      vocab_size,
    )
    # Finite, as beam search sums log-probabilities.
    return jnp.where(allowed, logits, decoding.NEG_INF_VALUE), cache

  rows = inputs.shape[0]
  tokens, scores = decoding.beam_search(
    jnp.zeros((rows, max_tokens), jnp.int32),
    cache,
    tokens_to_logits,
    eos_id,
    num_decodes=num_beams,
    cache_offset=1 if getattr(model.module, 'scan_layers', False) else 0,
    initial_index=jnp.zeros((rows,), jnp.int32),
  )
  real = _has_prompt(inputs)
  return (
    jnp.where(real[:, None], tokens[:, -1], 0),
    jnp.isfinite(scores[:, -1]) | ~real,
  )


@functools.partial(
  jax.jit, static_argnames=('topk', 'topp', 'ngram_size', 'vocab_size')
)
def choose(
  logits: Float[Array, 'rows width'],
  sequences: Int[Array, 'rows length'],
  position: Int[Array, ''],
  keys: jax.Array,
  may_begin: Bool[Array, '*rows vocab'],
  temperature: Float[Array, ''],
  topk: int,
  topp: float,
  ngram_size: int,
  vocab_size: int,
) -> tuple[
  Int[Array, 'rows 1'], Int[Array, 'rows length'], Bool[Array, ' rows']
]:
  """Samples the next tokens, never padding or ids beyond the vocabulary.

  Args:
    logits: of the next token.
    sequences: the texts so far.
    position: number of tokens in each of them.
    keys: one key per row.
    may_begin: whether each token of the vocabulary may be the first one.
    temperature: divisor of the logits; 0 is greedy.
    topk: number of tokens to sample from, 0 for all.
    topp: total probability of the tokens to sample from, 0 for all.
    ngram_size: length of n-grams that may not repeat in a text; 0 for none.
    vocab_size: number of ids in the vocabulary.

  Returns:
    The tokens, the sequences with them, and whether all logits of each row are
    finite.
  """
  finite = jnp.all(jnp.isfinite(logits[:, 1:vocab_size]), axis=-1)
  allowed = _allowed(
    logits.shape[-1], sequences, position, may_begin, ngram_size, vocab_size
  )
  logits = jnp.where(allowed, logits.astype(jnp.float32), _LOWEST)

  def choose_one(key, row):
    tokens, _ = decoding.choose_tokens(
      jax.random.fold_in(key, position),
      row[None],
      temperature,
      1,
      topk=topk,
      topp=topp,
      rescale_log_probs=True,
    )
    return tokens

  # One key per row, so that a sample does not depend on their number.
  tokens = jax.vmap(choose_one)(keys, logits)
  sequences = jax.lax.dynamic_update_slice(sequences, tokens, (0, position))
  return tokens, sequences, finite


def _allowed(
  width: int,
  tokens: Int[Array, 'rows length'],
  count: int | Int[Array, ''],
  may_begin: Bool[Array, '*rows vocab'],
  ngram_size: int,
  vocab_size: int,
) -> Bool[Array, 'rows width']:
  """Returns whether each token may follow the first `count` of each row."""
  ids = jnp.arange(width)[None]
  may_begin = jnp.atleast_2d(may_begin)
  may_begin = jnp.pad(may_begin, ((0, 0), (0, width - may_begin.shape[1])))
  allowed = (ids > 0) & (ids < vocab_size) & (may_begin | (count > 0))
  allowed = jnp.broadcast_to(allowed, (tokens.shape[0], width))
  if ngram_size:
    allowed &= ~decoding.repeating_tokens(tokens, count, ngram_size, width)
  return allowed


def _ids(model: _Model) -> tuple[int, int]:
  """Returns EOS, and the number of ids in the vocabulary."""
  vocabulary = model.output_vocabulary
  return vocabulary.eos_id or 1, vocabulary.vocab_size


def _has_prompt(inputs: Int[Array, 'batch length']) -> Bool[Array, ' batch']:
  return jnp.any(inputs != 0, axis=1)
