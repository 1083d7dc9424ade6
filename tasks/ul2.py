"""UL2's denoisers: span corruption and prefix LM, marked by mode tokens.

Tay et al. 2022 (arXiv 2205.05131, section 3.1 and table 1): R-denoisers mask
15 % in short spans, as T5 does; X-denoisers mask half of the text, or long
spans; the S-denoiser masks the last quarter, on average. Each puts a mode
token, [R], [X] or [S], before its inputs. Span corruption and prefix LM are
T5's, with one token of the inputs reserved for the mode, as in the paper's own
code (appendix 9.2).
"""

from collections.abc import Mapping

import gin
import seqio
import tensorflow as tf
from absl import logging

from fnet_t5x.tasks import objectives, sentinels

_MODES = ('R', 'S', 'X')


@gin.configurable
def mode_ids(
  vocabulary: seqio.Vocabulary,
  r_id: int | None = None,
  s_id: int | None = None,
  x_id: int | None = None,
) -> dict[str, int]:
  """Returns the ids of the mode tokens.

  Args:
    vocabulary: vocabulary of the task.
    r_id: id of [R]; by default the last sentinel, the one with the lowest id.
    s_id: id of [S]; by default the second to last sentinel.
    x_id: id of [X]; by default the third to last sentinel.

  Returns:
    Id by mode, 'R', 'S' and 'X'.

  Raises:
    ValueError: the vocabulary has fewer than four sentinels (three modes and
      one span), or ids are invalid or equal.
  """
  if vocabulary.extra_ids < len(_MODES) + 1:
    raise ValueError(
      f'UL2 needs {len(_MODES) + 1} sentinels, including one for spans, the'
      f' vocabulary has {vocabulary.extra_ids}: raise its extra_ids'
    )
  lowest = vocabulary.vocab_size - vocabulary.extra_ids
  given = {'r_id': r_id, 's_id': s_id, 'x_id': x_id}
  ids = sentinels.check_marks(
    vocabulary,
    {
      k: lowest + i if v is None else v
      for i, (k, v) in enumerate(given.items())
    },
    'mode_ids',
  )
  return dict(zip(_MODES, ids.values(), strict=True))


def _prepend(dataset: tf.data.Dataset, mode_id: int) -> tf.data.Dataset:
  def prepend(features):
    inputs = features['inputs']
    mode = tf.constant([mode_id], inputs.dtype)
    return {**features, 'inputs': tf.concat([mode, inputs], 0)}

  return dataset.map(prepend, num_parallel_calls=tf.data.AUTOTUNE)


def _reserved(
  inputs_length: int,
  noise_density: float,
  mean_noise_span_length: float,
  spans: int,
) -> int:
  """Returns by how many tokens to shorten the inputs.

  By one for the mode token, and by more if there are too few sentinels.

  Args:
    inputs_length: length of the inputs, EOS included.
    noise_density: share of the tokens that are noise.
    mean_noise_span_length: mean length of a noise span, in tokens.
    spans: number of sentinels that spans may use.
  """
  for reserved in range(1, inputs_length):
    tokens, _ = objectives.span_corruption_lengths(
      inputs_length - reserved, noise_density, mean_noise_span_length
    )
    noise = round(tokens * noise_density)
    if max(1, round(noise / mean_noise_span_length)) <= spans:
      return reserved
  return 1


@gin.configurable
def span_denoiser(
  dataset: tf.data.Dataset,
  sequence_length: Mapping[str, int],
  output_features: Mapping[str, seqio.Feature],
  mode: str = 'R',
  mean_noise_span_length: float = 3.0,
  noise_density: float = 0.15,
) -> tf.data.Dataset:
  """Makes R- and X-denoiser examples: a mode token, then span corruption.

  Three sentinels serve as mode tokens. If the others are too few for the spans
  of a full text, texts are shorter (packing fills the rows): with T5's 100
  sentinels, this happens for spans of 3 at 50 % and inputs longer than 392.

  Args:
    dataset: examples with tokenized `targets`.
    sequence_length: length by feature, EOS and mode token included.
    output_features: the task's features.
    mode: 'R' or 'X'.
    mean_noise_span_length: mean length of a missing span, in tokens.
    noise_density: share of the tokens that are missing.

  Raises:
    ValueError: a length is below 2, the targets exceed their length, or the
      vocabulary has too few sentinels.
  """
  objectives.check_feature_lengths(sequence_length, ['inputs', 'targets'])
  if mode not in ('R', 'X'):
    raise ValueError(f"span_denoiser.mode is {mode!r}; it must be 'R' or 'X'")
  vocabulary = output_features['inputs'].vocabulary
  ids = mode_ids(vocabulary)
  lowest = vocabulary.vocab_size - vocabulary.extra_ids
  # Spans use the sentinels from the top down to the first mode token.
  highest_mode = max(
    [i for i in ids.values() if i >= lowest], default=lowest - 1
  )
  spans = vocabulary.vocab_size - 1 - highest_mode
  if spans < 1:
    raise ValueError(
      f'the mode tokens {ids} leave no sentinel for spans: set mode_ids.r_id,'
      f' s_id and x_id below {vocabulary.vocab_size - 1}'
    )
  reserved = _reserved(
    sequence_length['inputs'], noise_density, mean_noise_span_length, spans
  )
  if reserved > 1:
    logging.warning(
      'UL2 [%s] with noise_density=%s and mean_noise_span_length=%s: inputs of'
      ' %d tokens need more sentinels than the %d that the vocabulary has for'
      ' spans; shortened by %d tokens',
      mode,
      noise_density,
      mean_noise_span_length,
      sequence_length['inputs'],
      spans,
      reserved - 1,
    )
  dataset = objectives.span_corruption(
    dataset,
    sequence_length,
    output_features,
    mean_noise_span_length=mean_noise_span_length,
    noise_density=noise_density,
    reserved_for_packing=reserved,
  )
  return _prepend(dataset, ids[mode])


@gin.configurable
def prefix_denoiser(
  dataset: tf.data.Dataset,
  sequence_length: Mapping[str, int],
  output_features: Mapping[str, seqio.Feature],
  noise_density: float = 0.25,
) -> tf.data.Dataset:
  """Makes S-denoiser examples: a mode token, then T5's prefix LM.

  Args:
    dataset: examples with tokenized `targets`.
    sequence_length: length by feature, EOS and mode token included.
    output_features: the task's features.
    noise_density: expected share of the targets, at most 0.5.

  Raises:
    ValueError: a length is below 1, or the density is above 0.5.
  """
  objectives.check_feature_lengths(sequence_length, ['inputs', 'targets'])
  dataset = objectives.prefix_lm(
    dataset,
    {**sequence_length, 'inputs': sequence_length['inputs'] - 1},
    output_features,
    noise_density=noise_density,
  )
  return _prepend(dataset, mode_ids(output_features['inputs'].vocabulary)['S'])
