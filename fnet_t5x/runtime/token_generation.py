"""Token generation after a prompt, by sampling or beam search."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from fnet_t5x.runtime import decoder_only, decoding, models
from fnet_t5x.runtime.generation_options import GenerationOptions

_LOWEST = float(np.finfo(np.float32).min)


class TokenGenerator:
  """Generates tokens after one prompt at a time.

  The tokens are never padding or ids beyond the vocabulary.
  """

  def __init__(
    self,
    model: models.EncoderDecoderModel | decoder_only.DecoderOnlyModel,
    params: PyTree,
    length: int,
  ):
    """Takes a model, its parameters, and the decoder's length in tokens."""
    self._model = model
    self._params = params
    self._length = length
    self._vocab_size = model.output_vocabulary.vocab_size
    self._eos_id = model.output_vocabulary.eos_id or 1

  def sample(
    self,
    inputs: Int[Array, '1 length'],
    may_begin: Bool[np.ndarray, ' vocab'],
    keys: jax.Array,
    max_tokens: int,
    options: GenerationOptions,
  ) -> Iterator[Int[np.ndarray, ' rows']]:
    """Yields the next token of each of several samples.

    Ends when all samples have ended. Tokens after a sample's EOS are
    meaningless.

    Args:
      inputs: the prompt's tokens, padded.
      may_begin: whether each token of the vocabulary may be the first one.
      keys: one key per sample.
      max_tokens: maximum number of tokens, at most the decoder's length.
      options: temperature, top_k, top_p and no_repeat_ngram_size.

    Raises:
      FloatingPointError: logits are NaN or infinite.
    """
    rows = keys.shape[0]
    encoded, cache, token = self._start(self._params, inputs, rows)
    sequences = jnp.zeros((rows, self._length), jnp.int32)
    ended = np.zeros(rows, bool)
    for position in range(max_tokens):
      logits, cache = self._step(self._params, encoded, cache, token)
      token, sequences, finite = _choose(
        logits,
        sequences,
        position,
        keys,
        may_begin,
        options.sampling_temperature,
        topk=options.sampling_top_k,
        topp=options.top_p,
        ngram_size=options.no_repeat_ngram_size,
        vocab_size=self._vocab_size,
      )
      chosen, finite = jax.device_get((token[:, 0], finite))
      if not finite[~ended].all():
        raise FloatingPointError('logits are not finite')
      yield chosen
      ended |= chosen == self._eos_id
      if ended.all():
        return

  def search(
    self,
    inputs: Int[Array, '1 length'],
    may_begin: Bool[np.ndarray, ' vocab'],
    max_tokens: int,
    options: GenerationOptions,
  ) -> Int[np.ndarray, ' length']:
    """Returns the best sequence of beam search, with zeros after EOS.

    Args:
      inputs, may_begin, max_tokens: as in `sample`.
      options: num_beams and no_repeat_ngram_size.

    Raises:
      FloatingPointError: logits are NaN or infinite.
    """
    tokens, score = self._search(
      self._params,
      inputs,
      may_begin,
      max_tokens=max_tokens,
      num_beams=options.num_beams,
      ngram_size=options.no_repeat_ngram_size,
    )
    if not np.isfinite(score):
      raise FloatingPointError('logits are not finite')
    return np.asarray(tokens)

  @functools.cached_property
  def _start(self):
    """Jitted prefill: reads a prompt, and initializes the cache."""
    return jax.jit(self._read, static_argnums=2)

  def _read(self, params, inputs, rows):
    """Returns encoded inputs, cache and first token, each with `rows` rows."""
    return self._model.start_generation(params, inputs, rows, self._length)

  @functools.cached_property
  def _step(self):
    """Jitted decoding step: from a token to logits and the new cache."""

    @functools.partial(jax.jit, donate_argnums=(2,))
    def step(params, encoded, cache, token):
      return self._model.decode_step(
        params, encoded, cache, token, self._length
      )

    return step

  @functools.cached_property
  def _search(self):
    """Jitted beam search: returns the best sequence and its score."""
    model = self._model

    @functools.partial(
      jax.jit, static_argnames=('max_tokens', 'num_beams', 'ngram_size')
    )
    def search(params, inputs, may_begin, *, max_tokens, num_beams, ngram_size):
      encoded, cache, first = self._read(params, inputs, 1)
      beams = None if encoded is None else encoded.repeat(num_beams)

      def tokens_to_logits(state):
        # Beam search begins with 0, and knows no prompt.
        token = jnp.where(state.cur_index > 0, state.cur_token, first)
        logits, cache = model.decode_step(
          params, beams, state.cache, token, self._length
        )
        allowed = _allowed(
          logits.shape[-1],
          state.sequences[:, 1:],  # Without the initial 0.
          state.cur_index,
          may_begin,
          ngram_size,
          self._vocab_size,
        )
        # Finite, as beam search sums log-probabilities.
        return jnp.where(allowed, logits, decoding.NEG_INF_VALUE), cache

      tokens, scores = decoding.beam_search(
        jnp.zeros((1, max_tokens), jnp.int32),
        cache,
        tokens_to_logits,
        self._eos_id,
        num_decodes=num_beams,
        cache_offset=1 if getattr(model.module, 'scan_layers', False) else 0,
        initial_index=jnp.zeros((1,), jnp.int32),
      )
      return tokens[0, -1], scores[0, -1]

    return search


def _allowed(
  width: int,
  tokens: Int[Array, 'rows length'],
  count: int | Int[Array, ''],
  may_begin: Bool[Array, ' vocab'],
  ngram_size: int,
  vocab_size: int,
) -> Bool[Array, 'rows width']:
  """Returns whether each token may follow the first `count` of each row."""
  ids = jnp.arange(width)
  may_begin = jnp.pad(may_begin, (0, width - may_begin.shape[0]))
  allowed = (ids > 0) & (ids < vocab_size) & (may_begin | (count > 0))
  allowed = jnp.broadcast_to(allowed[None], (tokens.shape[0], width))
  if ngram_size:
    allowed &= ~decoding.repeating_tokens(tokens, count, ngram_size, width)
  return allowed


@functools.partial(
  jax.jit, static_argnames=('topk', 'topp', 'ngram_size', 'vocab_size')
)
def _choose(
  logits: Float[Array, 'rows width'],
  sequences: Int[Array, 'rows length'],
  position: Int[Array, ''],
  keys: jax.Array,
  may_begin: Bool[Array, ' vocab'],
  temperature: Float[Array, ''],
  topk: int,
  topp: float,
  ngram_size: int,
  vocab_size: int,
) -> tuple[
  Int[Array, 'rows 1'], Int[Array, 'rows length'], Bool[Array, ' rows']
]:
  """Samples the next tokens.

  Returns:
    The tokens, the sequences with them, and whether all logits of each row are
    finite.
  """
  finite = jnp.all(jnp.isfinite(logits[:, 1:vocab_size]), axis=-1)
  allowed = _allowed(
    logits.shape[-1], sequences, position, may_begin, ngram_size, vocab_size
  )
  logits = jnp.where(allowed, logits.astype(jnp.float32), _LOWEST)

  def choose(key, row):
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
  tokens = jax.vmap(choose)(keys, logits)
  sequences = jax.lax.dynamic_update_slice(sequences, tokens, (0, position))
  return tokens, sequences, finite
