"""Training objectives: SeqIO preprocessors from text to inputs and targets.

The first two are T5's (Raffel et al. 2020, arXiv 1910.10683; package t5 0.9.4)
in definitions, parameters and random draws: the same tokens and seeds give the
same examples, token for token. Parameters can be bound in gin
(`objectives.span_corruption.noise_density = 0.3`); bindings take effect when
the dataset is built, not when the task is registered.

They expect tokenized `targets` without EOS, and are followed by
`seqio.preprocessors.append_eos_after_trim`.
"""

import functools
from collections.abc import Mapping, Sequence

import gin
import seqio
import tensorflow as tf
from absl import logging

from fnet_t5x.tasks import chunking, noise


def check_feature_lengths(
  sequence_length: Mapping[str, int], feature_keys: Sequence[str]
) -> None:
  """Checks that features have integer lengths of at least 1.

  Args:
    sequence_length: length in tokens by feature (TASK_FEATURE_LENGTHS).
    feature_keys: the required features.

  Raises:
    ValueError: names the feature, its length, and what to set.
  """
  for key in feature_keys:
    length = (sequence_length or {}).get(key)
    if not isinstance(length, int) or length < 1:
      raise ValueError(
        f"the length of feature '{key}' is {length} in TASK_FEATURE_LENGTHS ="
        f' {dict(sequence_length or {})}; it must be a number of tokens, at'
        ' least 1'
      )


def span_corruption_lengths(
  inputs_length: int,
  noise_density: float = 0.15,
  mean_noise_span_length: float = 3.0,
) -> tuple[int, int]:
  """Returns the length of text that fills the inputs once corrupted.

  Args:
    inputs_length: length of the inputs, EOS included.
    noise_density: share of the tokens that are noise.
    mean_noise_span_length: mean length of a noise span, in tokens.

  Returns:
    (tokens of text per example, length of the targets, EOS included): (568,
    114) for 512.
  """

  def corrupted(tokens):
    noise_tokens = round(tokens * noise_density)
    spans = round(noise_tokens / mean_noise_span_length)
    return tokens - noise_tokens + spans + 1, noise_tokens + spans + 1

  tokens = inputs_length - 1
  while corrupted(tokens + 1)[0] <= inputs_length:
    tokens += 1
  inputs, targets = corrupted(tokens)
  # At density 0.5, one token less makes targets and inputs equally long.
  if noise_density == 0.5 and targets > inputs:
    return tokens - 1, targets - 1
  return tokens, targets


def _check_sentinels(
  tokens: int,
  noise_density: float,
  mean_noise_span_length: float,
  vocabulary: seqio.Vocabulary,
) -> None:
  spans = max(1, round(round(tokens * noise_density) / mean_noise_span_length))
  if spans > vocabulary.extra_ids:
    raise ValueError(
      f'span corruption of {tokens} tokens with noise_density={noise_density}'
      f' and mean_noise_span_length={mean_noise_span_length} needs {spans}'
      f' sentinels, the vocabulary has {vocabulary.extra_ids}: raise its'
      ' extra_ids, or shorten the inputs'
    )


@gin.configurable
def span_corruption(
  dataset: tf.data.Dataset,
  sequence_length: Mapping[str, int],
  output_features: Mapping[str, seqio.Feature],
  mean_noise_span_length: float = 3.0,
  noise_density: float = 0.15,
  input_feature_key: str = 'inputs',
  merge_examples_to_reduce_padding: bool = True,
  reserved_for_packing: int | None = None,
  passthrough_feature_keys: Sequence[str] | None = None,
) -> tf.data.Dataset:
  """Makes T5's pretraining examples: predict the missing spans.

  'Thank you for inviting me to your party last week' gives the inputs 'Thank
  you <X> me to your party <Y> week' and the targets '<X> for inviting <Y>
  last', where <X>, <Y> are sentinels, the highest ids of the vocabulary.

  Args:
    dataset: examples with tokenized `targets`.
    sequence_length: length by feature, EOS included.
    output_features: the task's features.
    mean_noise_span_length: mean length of a missing span, in tokens.
    noise_density: share of the tokens that are missing.
    input_feature_key: name of the inputs.
    merge_examples_to_reduce_padding: whether to concatenate documents before
      splitting, so that nearly all examples are full.
    reserved_for_packing: number of tokens by which to shorten examples, so that
      several of them can be packed into one row.
    passthrough_feature_keys: other features to keep; not possible with
      `merge_examples_to_reduce_padding`.

  Raises:
    ValueError: a length is below 1, the targets exceed their length, the
      vocabulary has too few sentinels, or features cannot be passed through.
  """
  check_feature_lengths(sequence_length, [input_feature_key, 'targets'])
  if merge_examples_to_reduce_padding and passthrough_feature_keys:
    raise ValueError(
      f'passthrough_feature_keys={list(passthrough_feature_keys)} cannot be'
      ' kept when documents are concatenated: set'
      ' span_corruption.merge_examples_to_reduce_padding = False'
    )
  tokens, targets = span_corruption_lengths(
    sequence_length[input_feature_key] - (reserved_for_packing or 0),
    noise_density,
    mean_noise_span_length,
  )
  if tokens < 1:
    raise ValueError(
      f'span corruption has no room for a token in inputs of'
      f' {sequence_length[input_feature_key]}: raise the length of'
      f" '{input_feature_key}' in TASK_FEATURE_LENGTHS"
    )
  if sequence_length['targets'] < targets:
    raise ValueError(
      f'span corruption makes targets of {targets} tokens from'
      f' {sequence_length[input_feature_key]} of {input_feature_key}, but'
      f" TASK_FEATURE_LENGTHS gives 'targets' {sequence_length['targets']}:"
      f' raise it to {targets}'
    )
  _check_sentinels(
    tokens,
    noise_density,
    mean_noise_span_length,
    output_features['targets'].vocabulary,
  )
  dataset = chunking.select_random_chunk(
    dataset,
    feature_key='targets',
    passthrough_feature_keys=passthrough_feature_keys,
  )
  if merge_examples_to_reduce_padding:
    dataset = chunking.reduce_concat_tokens(dataset, feature_key='targets')
  dataset = chunking.split_tokens(
    dataset,
    feature_key='targets',
    max_tokens_per_segment=tokens,
    passthrough_feature_keys=passthrough_feature_keys,
  )
  return noise.denoise(
    dataset,
    output_features,
    noise_density=noise_density,
    noise_mask_fn=functools.partial(
      noise.random_spans_noise_mask,
      mean_noise_span_length=mean_noise_span_length,
    ),
    inputs_fn=noise.noise_span_to_unique_sentinel,
    targets_fn=noise.nonnoise_span_to_unique_sentinel,
    input_feature_key=input_feature_key,
    passthrough_feature_keys=passthrough_feature_keys,
  )


@gin.configurable
def prefix_lm(
  dataset: tf.data.Dataset,
  sequence_length: Mapping[str, int],
  output_features: Mapping[str, seqio.Feature],
  noise_density: float = 0.5,
) -> tf.data.Dataset:
  """Makes T5's prefix-LM examples: continue a text from a random point.

  Documents are split into segments that fill the inputs (less EOS); a random
  prefix of each segment becomes the inputs, the rest the targets.

  Args:
    dataset: examples with tokenized `targets`.
    sequence_length: length by feature, EOS included. Targets are truncated to
      theirs: at density 0.5, set it to the length of the inputs.
    output_features: the task's features.
    noise_density: expected share of the targets, at most 0.5 (all prefix
      lengths equally likely); lower densities give longer prefixes.

  Raises:
    ValueError: a length is below 1, or the density is above 0.5.
  """
  check_feature_lengths(sequence_length, ['inputs', 'targets'])
  segment_length = sequence_length['inputs'] - output_features['inputs'].add_eos
  if segment_length < 2:
    raise ValueError(
      f'prefix_lm cannot split {segment_length} token: raise the length of'
      " 'inputs' in TASK_FEATURE_LENGTHS to at least"
      f' {2 + output_features["inputs"].add_eos}'
    )
  shortest_prefix = max(
    1, round((1 - 2 * noise_density) * (segment_length - 1))
  )
  longest = (
    segment_length - shortest_prefix + output_features['targets'].add_eos
  )
  if sequence_length['targets'] < longest:
    logging.warning(
      'prefix_lm: targets of up to %d tokens are cut to %d; raise their length'
      ' in TASK_FEATURE_LENGTHS to keep every token',
      longest,
      sequence_length['targets'],
    )
  dataset = chunking.select_random_chunk(dataset, feature_key='targets')
  dataset = chunking.split_tokens(
    dataset, feature_key='targets', max_tokens_per_segment=segment_length
  )
  return noise.denoise(
    dataset,
    output_features,
    noise_density=noise_density,
    noise_mask_fn=noise.random_prefix_noise_mask,
    inputs_fn=noise.drop_nonnoise_tokens,
    targets_fn=noise.drop_noise_tokens,
  )


@gin.configurable
def fixed_prefix_lm(
  dataset: tf.data.Dataset,
  sequence_length: Mapping[str, int],
  output_features: Mapping[str, seqio.Feature],
  prefix_length: int | None = None,
) -> tf.data.Dataset:
  """Makes prefix-LM examples with a fixed prefix, for comparison with GPT-2.

  Documents are split into segments of `prefix_length` tokens plus as many as
  fill the targets (less EOS); the first `prefix_length` tokens become the
  inputs, the rest the targets. A shorter last segment is split in proportion.
  No token is lost.

  Args:
    dataset: examples with tokenized `targets`.
    sequence_length: length by feature, EOS included.
    output_features: the task's features.
    prefix_length: tokens in the inputs, without EOS; by default as many as fit.

  Raises:
    ValueError: a length is below 1, or the prefix does not fit the inputs.
  """
  check_feature_lengths(sequence_length, ['inputs', 'targets'])
  longest, targets_length = (
    sequence_length[key] - output_features[key].add_eos
    for key in ('inputs', 'targets')
  )
  if prefix_length is None:
    prefix_length = longest
  if not 1 <= prefix_length <= longest or targets_length < 1:
    raise ValueError(
      f'fixed_prefix_lm.prefix_length is {prefix_length}, and there is room for'
      f' {longest} input tokens and {targets_length} target tokens besides EOS;'
      ' both need at least one: change it, or TASK_FEATURE_LENGTHS ='
      f' {dict(sequence_length)}'
    )
  segment_length = prefix_length + targets_length
  dataset = chunking.split_tokens(
    dataset, feature_key='targets', max_tokens_per_segment=segment_length
  )
  return noise.denoise(
    dataset,
    output_features,
    noise_density=targets_length / segment_length,
    noise_mask_fn=functools.partial(
      noise.fixed_prefix_noise_mask,
      prefix_length=prefix_length,
      segment_length=segment_length,
    ),
    inputs_fn=noise.drop_nonnoise_tokens,
    targets_fn=noise.drop_noise_tokens,
  )
