"""Token generation after one prompt, token by token or by beam search."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree

from fnet_t5x.runtime import batch_generation, decoder_only, models
from fnet_t5x.runtime.generation_options import GenerationOptions


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
      token, sequences, finite = batch_generation.choose(
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
    tokens, finite = self._search(
      self._params,
      inputs,
      may_begin,
      max_tokens=max_tokens,
      num_beams=options.num_beams,
      ngram_size=options.no_repeat_ngram_size,
    )
    if not finite[0]:
      raise FloatingPointError('logits are not finite')
    return np.asarray(tokens[0])

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
    """Jitted beam search, which also returns whether scores are finite."""
    return jax.jit(
      functools.partial(
        batch_generation.search, self._model, length=self._length
      ),
      static_argnames=('max_tokens', 'num_beams', 'ngram_size'),
    )
