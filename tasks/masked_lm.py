"""Masked language modeling, BERT's and FNet's pretraining objective.

Devlin et al. 2019 (arXiv 1810.04805, section 3.1), Lee-Thorp et al. 2021 (arXiv
2105.03824, section 4.1): 15 % of the tokens are predicted; of these 80 % are
replaced by [MASK], 10 % by a random token, and 10 % are unchanged. `targets`
are the original tokens; `loss_weights` are 1 on predicted tokens and 0
elsewhere, since the inputs alone do not identify them. Random draws are
stateless.
"""

from collections.abc import Mapping, Sequence

import gin
import numpy as np
import seqio
import tensorflow as tf

from fnet_t5x.tasks import chunking, objectives, sentinels


def features(vocabulary: seqio.Vocabulary) -> dict[str, seqio.Feature]:
  """Returns the output features: `inputs`, `targets`, `loss_weights`."""
  return {
    'inputs': seqio.Feature(vocabulary, add_eos=False),
    'targets': seqio.Feature(vocabulary, add_eos=False),
    'loss_weights': seqio.Feature(
      seqio.PassThroughVocabulary(size=2), add_eos=False
    ),
  }


def count_predicted_tokens(
  decoded: str,
  example: Mapping[str, Sequence[int]] | None = None,
  is_target: bool = False,
) -> str | int:
  """Postprocesses a target to its number of predicted tokens.

  Args:
    decoded: the text.
    example: the task's example, with `loss_weights`.
    is_target: whether `decoded` is the target; an output is returned as it is.
  """
  return int(sum(example['loss_weights'])) if is_target else decoded


def check_aligned_lengths(
  sequence_length: Mapping[str, int], keys: Sequence[str], shortest: int
) -> int:
  """Returns the common length of features that are aligned token by token.

  Args:
    sequence_length: length in tokens by feature (TASK_FEATURE_LENGTHS).
    keys: the aligned features.
    shortest: minimum length that leaves room for text.

  Raises:
    ValueError: the lengths differ, or are too short.
  """
  objectives.check_feature_lengths(sequence_length, keys)
  lengths = {key: sequence_length[key] for key in keys}
  length = lengths[keys[0]]
  if set(lengths.values()) != {length} or length < shortest:
    raise ValueError(
      f'TASK_FEATURE_LENGTHS gives {lengths}, which are aligned token by token:'
      f' set all of them to the same length, at least {shortest}'
    )
  return length


def mask_tokens(
  tokens: tf.Tensor,
  is_text: tf.Tensor,
  seed: tf.Tensor,
  *,
  noise_density: float,
  mask_token_proportion: float,
  random_token_proportion: float,
  mask_id: int,
  random_ids: np.ndarray,
) -> tuple[tf.Tensor, tf.Tensor]:
  """Masks random tokens.

  Args:
    tokens: int32 [length].
    is_text: bool [length], false on [CLS] and [SEP]; true at least once.
    seed: int [2].
    noise_density: share of the text to predict: round(text * density) tokens,
      at least one.
    mask_token_proportion: share of these that become `mask_id`.
    random_token_proportion: share of these that become one of `random_ids`,
      drawn uniformly; the rest is unchanged.
    mask_id: id of [MASK].
    random_ids: int32 [ids].

  Returns:
    (inputs int32 [length], loss weights int32 [length], 1 where predicted).
  """
  seeds = tf.random.experimental.stateless_split(tf.cast(seed, tf.int64), 3)
  shape = tf.shape(tokens)
  text = tf.reduce_sum(tf.cast(is_text, tf.float32))
  count = tf.maximum(tf.cast(tf.round(text * noise_density), tf.int32), 1)
  score = tf.random.stateless_uniform(shape, seed=seeds[0])
  # Draws are below 1, so tokens that are not text come last.
  order = tf.argsort(tf.where(is_text, score, 2.0))
  predicted = tf.scatter_nd(
    order[:count, None], tf.ones([count], tf.int32), shape
  )
  kind = tf.random.stateless_uniform(shape, seed=seeds[1])
  drawn = tf.random.stateless_uniform(
    shape, seed=seeds[2], maxval=len(random_ids), dtype=tf.int32
  )
  hidden = tf.where(
    kind < mask_token_proportion,
    tf.cast(mask_id, tokens.dtype),
    tf.where(
      kind < mask_token_proportion + random_token_proportion,
      tf.gather(tf.constant(random_ids, tokens.dtype), drawn),
      tokens,
    ),
  )
  return tf.where(predicted > 0, hidden, tokens), predicted


def check_proportions(
  objective: str,
  noise_density: float,
  mask_token_proportion: float,
  random_token_proportion: float,
) -> None:
  """Checks the ranges of an objective's proportions.

  Raises:
    ValueError: one is out of range; the message has its name and range.
  """
  if not 0 < noise_density <= 1:
    raise ValueError(
      f'{objective}.noise_density is {noise_density}; it must be above 0 and at'
      ' most 1'
    )
  shares = (mask_token_proportion, random_token_proportion)
  if min(shares) < 0 or sum(shares) > 1:
    raise ValueError(
      f'{objective}.mask_token_proportion and random_token_proportion are'
      f' {shares[0]} and {shares[1]}; both must be at least 0, and their sum at'
      ' most 1'
    )


def check_predictions(
  text_tokens: int, noise_density: float, max_predictions: int | None
) -> None:
  """Checks that a model takes all predicted tokens of the longest text.

  Args:
    text_tokens: maximum number of tokens of a text, without [CLS] and [SEP].
    noise_density: share of the text that is predicted.
    max_predictions: how many the model takes; None for any number.

  Raises:
    ValueError: a text may have more.
  """
  most = max(round(text_tokens * noise_density), 1)
  if max_predictions is not None and most > max_predictions:
    raise ValueError(
      f'MAX_PREDICTIONS is {max_predictions}, but texts of {text_tokens} tokens'
      f' have {most} to predict (NOISE_DENSITY): raise it to {most}'
    )


@gin.configurable
def masked_lm(
  dataset: tf.data.Dataset,
  sequence_length: Mapping[str, int],
  output_features: Mapping[str, seqio.Feature],
  noise_density: float = 0.15,
  mask_token_proportion: float = 0.8,
  random_token_proportion: float = 0.1,
  max_predictions: int | None = None,
  mask_id: int | None = None,
  cls_id: int | None = None,
  sep_id: int | None = None,
) -> tf.data.Dataset:
  """Makes BERT's masked-LM examples of single texts, [CLS] text [SEP].

  Documents are split into texts that fill the inputs; no token is lost.

  Args:
    dataset: examples with tokenized `targets`. Empty ones are dropped.
    sequence_length: length by feature, [CLS] and [SEP] included; all equal.
    output_features: the task's features (`features`).
    noise_density: share of the text that is predicted.
    mask_token_proportion: share of the predicted tokens that become [MASK].
    random_token_proportion: share that become a random token; the rest is
      unchanged.
    max_predictions: maximum number of predicted tokens of an example, which the
      model takes (MAX_PREDICTIONS); None for no check.
    mask_id: id of [MASK]; by default the first sentinel.
    cls_id: id of [CLS]; by default the second sentinel.
    sep_id: id of [SEP]; by default the third sentinel.

  Raises:
    ValueError: lengths differ or are too short, shares are out of range,
      examples may have more than `max_predictions`, or the vocabulary has too
      few sentinels.
  """
  length = check_aligned_lengths(
    sequence_length, ['inputs', 'targets', 'loss_weights'], 3
  )
  check_proportions(
    'masked_lm', noise_density, mask_token_proportion, random_token_proportion
  )
  check_predictions(length - 2, noise_density, max_predictions)
  vocabulary = output_features['targets'].vocabulary
  marks = sentinels.mark_ids(
    vocabulary,
    {'mask_id': mask_id, 'cls_id': cls_id, 'sep_id': sep_id},
    'masked_lm',
  )
  random_ids = sentinels.text_ids(vocabulary, marks)

  @seqio.map_over_dataset(num_seeds=1)
  def mask(example, seed):
    text = example['targets']
    targets = tf.concat([[marks['cls_id']], text, [marks['sep_id']]], 0)
    is_text = tf.pad(tf.ones_like(text, tf.bool), [(1, 1)])
    inputs, weights = mask_tokens(
      targets,
      is_text,
      seed,
      noise_density=noise_density,
      mask_token_proportion=mask_token_proportion,
      random_token_proportion=random_token_proportion,
      mask_id=marks['mask_id'],
      random_ids=random_ids,
    )
    return {'inputs': inputs, 'targets': targets, 'loss_weights': weights}

  return mask(
    chunking.split_tokens(
      dataset, feature_key='targets', max_tokens_per_segment=length - 2
    )
  )
