"""Drawing a token from logits: greedy, temperature, top-k, top-p."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from fnet_t5x.runtime.beam_utils import NEG_INF
from fnet_t5x.runtime.logit_masks import topk_mask, topp_mask

# Temperatures up to this one mean greedy decoding.
MIN_TEMPERATURE = np.array(1e-4)


def is_traced(value) -> bool:
  return isinstance(value, jax.core.Tracer)


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
  """Draws the next token of each row.

  Args:
    rng: key; not used where the choice is greedy.
    logits: unnormalised log-probabilities.
    temperature: a number, or one for each example.
    num_decodes: rows of an example, side by side.
    topk: how many tokens to draw from, 0 for all, 1 for greedy.
    topp: what probability the tokens to draw from must have, 0 for all.
    rescale_log_probs: whether log-probabilities are those of the distribution
      drawn from, or of the logits as they came.

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
  # One temperature an example. All rows share the noise that one row gets.
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
    # One candidate needs no noise; only tied ones draw lots.
    peaks = jnp.max(scaled, axis=-1, keepdims=True)
    greedy = greedy | jnp.all(jnp.sum(scaled == peaks, axis=-1) == 1)
  return lax.cond(greedy, take_best, sample)
