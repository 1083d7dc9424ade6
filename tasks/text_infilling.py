"""BART's denoising: text infilling and sentence permutation.

Lewis et al. 2019 (arXiv 1910.13461, section 2.2): 30 % of the tokens are masked
in spans of Poisson(3) length, and every span, including empty ones, becomes one
mask token; the sentences of the inputs are permuted; the targets are the
original text. Random draws are stateless.
"""

import math
from collections.abc import Mapping

import gin
import numpy as np
import seqio
import tensorflow as tf

from fnet_t5x.tasks import chunking, objectives, sentences, sentinels


def _poisson_cdf(mean: float) -> np.ndarray:
  """Returns P(at most k) for k = 0, 1, ..., up to a negligible tail."""
  k = np.arange(int(mean + 12 * math.sqrt(mean)) + 20)
  log_factorial = np.array([math.lgamma(i + 1) for i in k])
  return np.cumsum(np.exp(k * math.log(mean) - mean - log_factorial))


def poisson_span_lengths(
  total: tf.Tensor, poisson_lambda: float, seed: tf.Tensor
) -> tf.Tensor:
  """Draws Poisson lengths until they add up to `total`; truncates the last.

  Args:
    total: int32 scalar, at least 1.
    poisson_lambda: mean length of a span.
    seed: int [2].

  Returns:
    int32 [spans], possibly with zeros; the last one is positive.
  """
  # More than twice as many as needed: their sum is Poisson with mean 2 total +
  # 64, and below `total` with probability under 1e-15. In that case the last
  # span is longer.
  draws = tf.cast(
    tf.math.ceil(
      (2.0 * tf.cast(total, tf.float32) + 64.0) / float(poisson_lambda)
    ),
    tf.int32,
  )
  # Several times faster than `tf.random.stateless_poisson`.
  drawn = tf.searchsorted(
    tf.constant(_poisson_cdf(poisson_lambda), tf.float32),
    tf.random.stateless_uniform([draws], seed=seed),
    side='right',
  )
  sums = tf.cumsum(drawn)
  spans = tf.minimum(tf.reduce_sum(tf.cast(sums < total, tf.int32)) + 1, draws)
  ends = tf.concat([sums[: spans - 1], [total]], 0)
  return ends - tf.concat([[0], ends[:-1]], 0)


def fill_in(
  tokens: tf.Tensor,
  noise_density: float,
  poisson_lambda: float,
  mask_id: int,
  seeds: tf.Tensor,
) -> tf.Tensor:
  """Replaces random spans by one mask token each.

  round(length * noise_density) tokens are masked, at least one. Spans do not
  overlap; all their arrangements between the kept tokens are equally likely.

  Args:
    tokens: int32 [length], length at least 1.
    noise_density: share of the tokens that are masked.
    poisson_lambda: mean length of a span.
    mask_id: id of the mask token.
    seeds: int [2, 2].

  Returns:
    int32 [length - masked + spans].
  """
  length = tf.size(tokens)
  hidden = tf.clip_by_value(
    tf.cast(tf.round(tf.cast(length, tf.float32) * noise_density), tf.int32),
    1,
    length,
  )
  spans = poisson_span_lengths(hidden, poisson_lambda, seeds[0])
  # The result is kept tokens and masks interleaved: draw the masks' indices.
  size = length - hidden + tf.size(spans)
  order = tf.argsort(tf.random.stateless_uniform([size], seed=seeds[1]))
  places = order[: tf.size(spans)]
  is_mask = tf.scatter_nd(
    places[:, None], tf.ones_like(places, tf.bool), [size]
  )
  # After a mask, the source index skips the tokens that it replaces.
  skipped = tf.scatter_nd(places[:, None], spans, [size])
  source = tf.cumsum(tf.where(is_mask, skipped, 1), exclusive=True)
  return tf.where(
    is_mask,
    tf.cast(mask_id, tokens.dtype),
    tf.gather(tokens, tf.minimum(source, length - 1)),
  )


@gin.configurable
def text_infilling(
  dataset: tf.data.Dataset,
  sequence_length: Mapping[str, int],
  output_features: Mapping[str, seqio.Feature],
  noise_density: float = 0.3,
  poisson_lambda: float = 3.0,
  permute_sentences: bool = True,
  mask_id: int | None = None,
) -> tf.data.Dataset:
  """Makes BART's examples: reconstruct a text from its corrupted form.

  Documents are split into segments that fill the targets (less EOS), or the
  inputs if those are shorter; no token is lost. Sentences end with a piece that
  ends in '.', '!' or '?'; their order in the inputs is random.

  Args:
    dataset: examples with tokenized `targets`.
    sequence_length: length by feature, EOS included. The inputs turn out about
      20 % shorter than the targets.
    output_features: the task's features.
    noise_density: share of the tokens that are masked.
    poisson_lambda: mean length of a masked span.
    permute_sentences: whether to permute the sentences.
    mask_id: id of the mask token; by default the first sentinel.

  Raises:
    ValueError: a length is below 1, a parameter is out of range, or the
      vocabulary has no sentinel for the mask.
  """
  objectives.check_feature_lengths(sequence_length, ['inputs', 'targets'])
  if not 0 < noise_density < 1:
    raise ValueError(
      f'text_infilling.noise_density is {noise_density}; it must be above 0 and'
      ' below 1'
    )
  if not poisson_lambda > 0:
    raise ValueError(
      f'text_infilling.poisson_lambda is {poisson_lambda}; it must be above 0'
    )
  max_tokens = min(
    sequence_length[key] - output_features[key].add_eos
    for key in ('inputs', 'targets')
  )
  if max_tokens < 1:
    raise ValueError(
      'text_infilling has no room for a token: raise the lengths'
      f' {dict(sequence_length)} in TASK_FEATURE_LENGTHS'
    )
  vocabulary = output_features['targets'].vocabulary
  marks = sentinels.mark_ids(vocabulary, {'mask_id': mask_id}, 'text_infilling')
  if permute_sentences:
    table = sentences.sentence_end_table(vocabulary)

  @seqio.map_over_dataset(num_seeds=1)
  def corrupt(features, seed):
    seeds = tf.random.experimental.stateless_split(tf.cast(seed, tf.int64), 3)
    tokens = features['targets']
    source = tokens
    if permute_sentences:
      source = sentences.permute_sentences(
        tokens, sentences.sentence_ends(tokens, table), seeds[2]
      )
    return {
      'inputs': fill_in(
        source, noise_density, poisson_lambda, marks['mask_id'], seeds[:2]
      ),
      'targets': tokens,
    }

  return corrupt(
    chunking.split_tokens(
      dataset, feature_key='targets', max_tokens_per_segment=max_tokens
    )
  )
