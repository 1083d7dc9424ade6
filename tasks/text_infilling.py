"""BART's denoising: text infilling and sentence permutation.

Lewis et al. 2019 (arXiv 1910.13461, section 2.2): 30 % of the tokens are hidden
in spans whose lengths are Poisson(3), and every span, empty ones too, becomes
one mask token; the sentences of the inputs are put in a random order; the
targets are the whole text as it was. Draws are stateless.
"""

import math
from collections.abc import Mapping

import gin
import numpy as np
import seqio
import tensorflow as tf

from fnet_t5x.tasks import chunking, objectives, sentences, sentinels


def _poisson_cdf(mean: float) -> np.ndarray:
  """Probability of at most k, for k from 0 on till next to nothing is left."""
  k = np.arange(int(mean + 12 * math.sqrt(mean)) + 20)
  log_factorial = np.array([math.lgamma(i + 1) for i in k])
  return np.cumsum(np.exp(k * math.log(mean) - mean - log_factorial))


def poisson_span_lengths(
  total: tf.Tensor, poisson_lambda: float, seed: tf.Tensor
) -> tf.Tensor:
  """Poisson lengths until they add up to `total`; the last is cut to fit.

  Args:
    total: int32 scalar, at least 1.
    poisson_lambda: mean length of a span.
    seed: int [2].

  Returns:
    int32 [spans], zeros among them; the last is above zero.
  """
  # Twice as many as needed, and some: the sum of the draws is Poisson with mean
  # 2 total + 64, less than `total` once in more than 1e15 times. The last span
  # would then be longer.
  draws = tf.cast(
    tf.math.ceil(
      (2.0 * tf.cast(total, tf.float32) + 64.0) / float(poisson_lambda)
    ),
    tf.int32,
  )
  # Several times as fast as `tf.random.stateless_poisson`.
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
  """Replaces random spans by one mask each.

  round(length * noise_density) tokens are hidden, at least one. Spans do not
  overlap; all ways to put them between the tokens that stay are equally likely.

  Args:
    tokens: int32 [length], length at least 1.
    noise_density: share of the tokens that are hidden.
    poisson_lambda: mean length of a span.
    mask_id: what stands for a span.
    seeds: int [2, 2].

  Returns:
    int32 [length - hidden + spans].
  """
  length = tf.size(tokens)
  hidden = tf.clip_by_value(
    tf.cast(tf.round(tf.cast(length, tf.float32) * noise_density), tf.int32),
    1,
    length,
  )
  spans = poisson_span_lengths(hidden, poisson_lambda, seeds[0])
  # The result is kept tokens and masks in any order: draw the masks' places.
  size = length - hidden + tf.size(spans)
  order = tf.argsort(tf.random.stateless_uniform([size], seed=seeds[1]))
  places = order[: tf.size(spans)]
  is_mask = tf.scatter_nd(
    places[:, None], tf.ones_like(places, tf.bool), [size]
  )
  # What a mask stands for is left out between its neighbours.
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
  """BART's objective: write the whole text out, from its ruins.

  Documents are cut into segments that fill the targets (less EOS), or the
  inputs if those are shorter; no token is lost. A sentence ends with a piece
  that ends in a full stop, `!` or `?`; its order among the others is random in
  the inputs.

  Args:
    dataset: examples with tokenized `targets`.
    sequence_length: length by feature, EOS included. The inputs come out about
      a fifth shorter than the targets.
    output_features: the task's features.
    noise_density: share of the tokens that are hidden.
    poisson_lambda: mean length of a hidden span.
    permute_sentences: whether to put the sentences in a random order.
    mask_id: the mask token; by default the first sentinel.

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
