"""Noise masks over token sequences, and functions that apply them.

Formulas, parameters and random draws are those of T5's preprocessors (Raffel et
al. 2020, arXiv 1910.10683, section 3.1.4; package t5 0.9.4): the same tokens
and seeds give the same examples. All draws are stateless, so restored iterators
repeat them.
"""

from collections.abc import Callable, Mapping, Sequence

import gin
import seqio
import tensorflow as tf

# (length, noise_density, seeds [2, 2]) -> mask [length], true on noise.
NoiseMaskFn = Callable[[tf.Tensor, float, Sequence[tf.Tensor]], tf.Tensor]
# (tokens [length], mask [length], vocabulary) -> tokens [new length].
NoiseFn = Callable[[tf.Tensor, tf.Tensor, seqio.Vocabulary], tf.Tensor]


def _random_segment_lengths(
  items: tf.Tensor, segments: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
  """Splits `items` into non-empty segments, uniformly at random.

  Example: 7 items, 3 segments -> lengths [2, 4, 1].
  """
  # Cut at the first `segments - 1` gaps of a random permutation.
  order = tf.argsort(tf.random.stateless_uniform([items - 1], seed=seed))
  cuts = tf.cast(tf.where(order < segments - 1)[:, 0], tf.int32) + 1
  return tf.concat([cuts, [items]], 0) - tf.concat([[0], cuts], 0)


@gin.configurable
def random_spans_noise_mask(
  length: tf.Tensor,
  noise_density: float,
  seeds: Sequence[tf.Tensor],
  mean_noise_span_length: float = 3.0,
  random_roll: bool = False,
) -> tf.Tensor:
  """Draws a mask of alternating kept and noise spans, starting with a kept one.

  There are n = round(length * noise_density) noise tokens in round(n /
  mean_noise_span_length) spans: at least one token and one span, and at least
  one token is kept. All masks with these numbers are equally likely.

  Args:
    length: int32 scalar, number of tokens.
    noise_density: share of the tokens that are noise.
    seeds: two seeds, int [2] each.
    mean_noise_span_length: mean length of a noise span, in tokens.
    random_roll: whether to rotate the mask by a random offset. Without it the
      last token is always noise, and a single span is the end of the text.

  Returns:
    bool [length], true on noise.
  """
  if noise_density == 0.0:
    return tf.zeros([length], tf.bool)
  # A kept and a noise span need two tokens: pad a single one, cut at the end.
  padded_length = tf.maximum(length, 2)
  noise = tf.cast(
    tf.round(tf.cast(padded_length, tf.float32) * noise_density), tf.int32
  )
  noise = tf.clip_by_value(noise, 1, padded_length - 1)
  spans = tf.cast(
    tf.round(tf.cast(noise, tf.float32) / mean_noise_span_length), tf.int32
  )
  spans = tf.maximum(spans, 1)
  noise_lengths = _random_segment_lengths(noise, spans, seeds[0])
  kept_lengths = _random_segment_lengths(padded_length - noise, spans, seeds[1])
  span_lengths = tf.reshape(tf.stack([kept_lengths, noise_lengths], 1), [-1])
  # A token is in span k if k spans end at or before it.
  span = tf.searchsorted(
    tf.cumsum(span_lengths), tf.range(length), side='right'
  )
  mask = span % 2 == 1
  if random_roll:
    offset = tf.random.stateless_uniform(
      [1],
      seed=(seeds[0][0] + seeds[1][1], seeds[0][1] - seeds[1][0]),
      maxval=padded_length,
      dtype=tf.int32,
    )[0]
    mask = tf.roll(mask, shift=offset, axis=0)
  return mask


def random_prefix_noise_mask(
  length: tf.Tensor, noise_density: float, seeds: Sequence[tf.Tensor]
) -> tf.Tensor:
  """Draws a mask of a random prefix.

  With density 0.5 the prefix length is uniform in [1, length - 1]; with a lower
  density d it is uniform in [(1 - 2 d) (length - 1), length - 1], so prefixes
  are longer. The prefix of a single token is empty.

  Args:
    length: int32 scalar, number of tokens.
    noise_density: expected share of the tokens outside the prefix, at most 0.5.
    seeds: seeds, int [2] each; the first is used.

  Returns:
    bool [length], true on the prefix.

  Raises:
    ValueError: density above 0.5.
  """
  if noise_density > 0.5:
    raise ValueError(
      f'prefix_lm.noise_density is {noise_density}; it must be at most 0.5,'
      ' which makes all prefix lengths equally likely'
    )
  longest = length - 1
  shortest = tf.cast(
    tf.round((1 - 2 * noise_density) * tf.cast(longest, tf.float32)), tf.int32
  )
  shortest = tf.minimum(tf.maximum(shortest, 1), longest)
  prefix = tf.random.stateless_uniform(
    [], seed=seeds[0], minval=shortest, maxval=longest + 1, dtype=tf.int32
  )
  return tf.range(length) < prefix


def fixed_prefix_noise_mask(
  length: tf.Tensor,
  noise_density: float,
  seeds: Sequence[tf.Tensor],
  *,
  prefix_length: int,
  segment_length: int,
) -> tf.Tensor:
  """Returns a mask of a prefix of deterministic length.

  The prefix of a full segment has `prefix_length` tokens, that of a shorter one
  the same share of its tokens, with at least one token on either side. The
  prefix of a single token is empty.

  Args:
    length: int32 scalar, number of tokens, at most `segment_length`.
    noise_density: unused; the two lengths determine it.
    seeds: unused; nothing is drawn.
    prefix_length: tokens in the prefix of a full segment.
    segment_length: tokens in a full segment.

  Returns:
    bool [length], true on the prefix.
  """
  del noise_density, seeds
  # round(length * prefix_length / segment_length), in integers.
  prefix = (2 * length * prefix_length + segment_length) // (2 * segment_length)
  return tf.range(length) < tf.minimum(tf.maximum(prefix, 1), length - 1)


def noise_span_to_unique_sentinel(
  tokens: tf.Tensor, noise_mask: tf.Tensor, vocabulary: seqio.Vocabulary
) -> tf.Tensor:
  """Replaces each run of noise by a sentinel, from the highest id down.

  Example: 'we hold these truths self evident' with noise on 'these truths' and
  'evident' -> 'we hold <extra_id_0> self <extra_id_1>'.
  """
  after_noise = tf.concat([[False], noise_mask[:-1]], 0)
  starts_span = noise_mask & ~after_noise
  span = tf.cumsum(tf.cast(starts_span, tokens.dtype))
  with_sentinels = tf.where(
    starts_span, tf.cast(vocabulary.vocab_size, tokens.dtype) - span, tokens
  )
  kept = tf.where(starts_span | ~noise_mask)[:, 0]
  return tf.gather(with_sentinels, kept)


def nonnoise_span_to_unique_sentinel(
  tokens: tf.Tensor, noise_mask: tf.Tensor, vocabulary: seqio.Vocabulary
) -> tf.Tensor:
  """Replaces each run of kept tokens by a sentinel, as in the targets."""
  return noise_span_to_unique_sentinel(tokens, ~noise_mask, vocabulary)


def drop_noise_tokens(
  tokens: tf.Tensor, noise_mask: tf.Tensor, vocabulary: seqio.Vocabulary
) -> tf.Tensor:
  """Drops the noise tokens."""
  del vocabulary
  return tf.boolean_mask(tokens, ~noise_mask)


def drop_nonnoise_tokens(
  tokens: tf.Tensor, noise_mask: tf.Tensor, vocabulary: seqio.Vocabulary
) -> tf.Tensor:
  """Drops all but the noise tokens."""
  del vocabulary
  return tf.boolean_mask(tokens, noise_mask)


def denoise(
  dataset: tf.data.Dataset,
  output_features: Mapping[str, seqio.Feature],
  *,
  noise_density: float,
  noise_mask_fn: NoiseMaskFn,
  inputs_fn: NoiseFn,
  targets_fn: NoiseFn,
  input_feature_key: str = 'inputs',
  passthrough_feature_keys: Sequence[str] | None = None,
) -> tf.data.Dataset:
  """Makes inputs and targets of `targets` with a noise mask.

  Args:
    dataset: examples with 'targets', int32 [length].
    output_features: the task's features; their vocabulary has the sentinels.
    noise_density: passed to `noise_mask_fn`.
    noise_mask_fn: draws the mask.
    inputs_fn: makes the inputs from tokens and mask.
    targets_fn: makes the targets from tokens and mask.
    input_feature_key: name of the inputs.
    passthrough_feature_keys: other features to keep.

  Raises:
    ValueError: inputs and targets have different vocabularies, or a feature is
      both made and passed through.
  """
  made = {input_feature_key, 'targets'}
  kept_keys = passthrough_feature_keys or ()
  if made & set(kept_keys):
    raise ValueError(
      f'features {sorted(made & set(kept_keys))} are made by the objective and'
      ' cannot be passed through: remove them from passthrough_feature_keys'
    )
  vocabulary = output_features['targets'].vocabulary
  for key in made & set(output_features):
    if output_features[key].vocabulary != vocabulary:
      raise ValueError(
        f"the vocabularies of '{key}' and 'targets' differ, but the objective"
        ' makes both from the same tokens: use one vocabulary for both'
      )

  @seqio.map_over_dataset(num_seeds=1)
  def split(features, seed):
    seeds = tf.unstack(
      tf.random.experimental.stateless_split(tf.cast(seed, tf.int64), 6)
    )
    tokens = features['targets']
    mask = noise_mask_fn(tf.size(tokens), noise_density, seeds[:2])
    return {
      input_feature_key: inputs_fn(tokens, mask, vocabulary),
      'targets': targets_fn(tokens, mask, vocabulary),
      **{k: features[k] for k in kept_keys},
    }

  return split(dataset)
