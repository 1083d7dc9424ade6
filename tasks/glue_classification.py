"""GLUE (Wang et al. 2019, arXiv 1804.07461) as classes and numbers.

`fnet_glue_<task>_classification`, for encoders with a classification head; the
sources are those of `glue`, which has the same tasks as text to text.
`fnet_glue_mnli_both_classification` trains on MNLI and evaluates on both of its
validation splits, matched and mismatched.
"""

import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import gin
import seqio
import tensorflow as tf

from fnet_t5x.tasks import (
  evaluation,
  glue,
  label_metrics,
  registration,
  sentinels,
  tfds_source,
)

LABEL = 'label'
FEATURE_LENGTHS = {'inputs': 512, 'type_ids': 512, LABEL: 1}
# [CLS] a [SEP] b [SEP], with a token of each text.
_MIN_LENGTH = 5


def features(is_regression: bool = False) -> dict[str, seqio.Feature]:
  """Returns the output features: `inputs`, `type_ids` and `label`, [1].

  Args:
    is_regression: whether the label is a float32 score, not an int32 class.
  """
  numbers = functools.partial(
    seqio.Feature, seqio.PassThroughVocabulary(size=0), add_eos=False
  )
  return {
    'inputs': seqio.Feature(evaluation.VOCABULARY, add_eos=False),
    'type_ids': numbers(),
    LABEL: numbers(dtype=tf.float32 if is_regression else tf.int32),
  }


def tokenize(
  dataset: tf.data.Dataset,
  output_features: Mapping[str, seqio.Feature],
  fields: Sequence[str],
) -> tf.data.Dataset:
  """Tokenizes one or two texts.

  Args:
    dataset: examples with the texts, and the scalar `label`.
    output_features: the task's features.
    fields: names of the texts, in order.

  Returns:
    Examples with `first` and `second`, int32 tokens (the latter empty for a
    single text); `label`, of shape [1]; and `inputs_pretokenized`, the texts.
  """
  vocabulary = output_features['inputs'].vocabulary
  dtype = output_features[LABEL].dtype

  def convert(x):
    texts = [vocabulary.encode_tf(x[field]) for field in fields]
    second = texts[1] if len(texts) > 1 else tf.zeros([0], tf.int32)
    return {
      'first': texts[0],
      'second': second,
      LABEL: tf.cast(x[LABEL], dtype)[None],
      'inputs_pretokenized': tf.strings.join(
        [x[field] for field in fields], ' | '
      ),
    }

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def truncate_pair(
  first: tf.Tensor, second: tf.Tensor, max_tokens: int
) -> tuple[tf.Tensor, tf.Tensor]:
  """Cuts the ends of two texts to `max_tokens` tokens in total.

  The longer text loses tokens first, as in BERT: a short question keeps its
  end. f_net instead cuts the end of the row, and with it the second text.

  Args:
    first: int32 [tokens].
    second: int32 [tokens].
    max_tokens: at least 2.
  """
  sizes = tf.size(first), tf.size(second)
  # Of two long texts, the first keeps the odd token.
  kept = tf.minimum(
    sizes[1], tf.maximum(max_tokens - sizes[0], max_tokens // 2)
  )
  return first[: max_tokens - kept], second[:kept]


@gin.configurable(module='glue_classification')
def join_texts(
  dataset: tf.data.Dataset,
  sequence_length: Mapping[str, int],
  output_features: Mapping[str, seqio.Feature],
  is_pair: bool,
  cls_id: int | None = None,
  sep_id: int | None = None,
) -> tf.data.Dataset:
  """Makes rows [CLS] a [SEP] or [CLS] a [SEP] b [SEP].

  Args:
    dataset: examples of `tokenize`.
    sequence_length: length by feature; 1 for `label`, and equal for the others.
    output_features: the task's features (`features`).
    is_pair: whether there are two texts.
    cls_id: id of [CLS]; by default that of the vocabulary's piece [CLS], else
      the second sentinel, as in `masked_lm`.
    sep_id: id of [SEP]; by default that of the piece [SEP], else the third
      sentinel.

  Raises:
    ValueError: the lengths differ or are too short, or the vocabulary has
      neither such pieces nor enough sentinels.
  """
  # None: SeqIO's evaluator without lengths, which takes the longest example.
  length = None
  if sequence_length:
    length = _check_lengths(sequence_length)
  vocabulary = output_features['inputs'].vocabulary
  # The first sentinel is [MASK], as in pretraining.
  ids = sentinels.mark_ids(
    vocabulary,
    {'mask_id': None, 'cls_id': cls_id, 'sep_id': sep_id},
    'join_texts',
  )
  cls, sep = [ids['cls_id']], [ids['sep_id']]

  def join(x):
    a, b = x['first'], x['second']
    if length and is_pair:
      a, b = truncate_pair(a, b, length - 3)
    elif length:
      a = a[: length - 2]
    parts = [cls, a, sep, b, sep] if is_pair else [cls, a, sep]
    tokens = tf.concat(parts, 0)
    is_second = tf.range(tf.size(tokens)) >= tf.size(a) + 2
    return {
      'inputs': tokens,
      'type_ids': tf.cast(is_second, tf.int32),
      LABEL: x[LABEL],
      'inputs_pretokenized': x['inputs_pretokenized'],
    }

  return dataset.map(join, num_parallel_calls=tf.data.AUTOTUNE)


def _check_lengths(sequence_length: Mapping[str, int]) -> int:
  """Returns the length of a row; raises ValueError for invalid lengths."""
  lengths = {key: sequence_length.get(key) for key in FEATURE_LENGTHS}
  length = lengths['inputs']
  if (
    lengths['type_ids'] != length
    or lengths[LABEL] != 1
    or not isinstance(length, int)
    or length < _MIN_LENGTH
  ):
    raise ValueError(
      f'TASK_FEATURE_LENGTHS gives {lengths}: set inputs and type_ids to the'
      f' same length, at least {_MIN_LENGTH}, and label to 1'
    )
  return length


def _value(label: Any, is_target: bool = False, **unused_kwargs) -> int | float:
  """Postprocesses a label, [1] if it is a target, to a number."""
  return (label[0] if is_target else label).item()


def _metric(metric_fn: Callable) -> type:
  """Returns SeqIO's metric of a metric function, on the feature `label`.

  SeqIO's evaluator reads `targets` unless it is configured otherwise; this way
  the tasks are evaluated correctly by any configuration.
  """
  base = seqio.metrics.PassthroughLegacyMetric.from_metric_fn(metric_fn, _value)

  @flax.struct.dataclass
  class LabelMetric(base):
    """The metric, on labels."""

    def actual_compute(
      self,
      task_dataset_as_numpy,
      task_output_features,
      target_field_name=LABEL,
      cached_targets=None,
    ):
      del target_field_name
      return super().actual_compute(
        task_dataset_as_numpy, task_output_features, LABEL, cached_targets
      )

  return LabelMetric


def _task_name(name: str) -> str:
  return f'fnet_glue_{name}_classification'


def _register(
  name: str,
  objective: str,
  fields: Sequence[str],
  metric_fns: Sequence[Callable],
  config: str | None = None,
  splits: Sequence[str] | Mapping[str, str] = ('train', 'validation'),
) -> registration.Entry:
  tfds_name = f'glue/{config or name}:{glue.VERSION}'
  seqio.TaskRegistry.add(
    _task_name(name),
    source=tfds_source.TfdsSource(tfds_name, splits),
    preprocessors=[
      functools.partial(tokenize, fields=fields),
      seqio.CacheDatasetPlaceholder(),
      functools.partial(join_texts, is_pair=len(fields) > 1),
    ],
    output_features=features(is_regression=NUM_CLASSES[name] == 1),
    metric_objs=[_metric(metric_fn) for metric_fn in metric_fns],
  )
  return registration.Entry(
    _task_name(name), f'TFDS {tfds_name}', objective, FEATURE_LENGTHS
  )


# Classes by task; 1 is a score.
NUM_CLASSES: Mapping[str, int] = types.MappingProxyType(
  {
    'cola': 2,
    'sst2': 2,
    'mrpc': 2,
    'qqp': 2,
    'stsb': 1,
    'mnli': 3,
    'mnli_mismatched': 3,
    'qnli': 2,
    'rte': 2,
    'wnli': 2,
  }
)
_MNLI_BOTH = 'mnli_both'
_ACCURACY = (label_metrics.accuracy,)
_F1 = (
  label_metrics.f1_accuracy_mean,
  label_metrics.binary_f1,
  label_metrics.accuracy,
)
# f_net's order, and T5's: the hypothesis is never cut off by a long premise.
_MNLI = ('hypothesis', 'premise')
_SENTENCES = ('sentence1', 'sentence2')
TASKS = (
  _register(
    'cola',
    'acceptability of a sentence: Matthews correlation, accuracy',
    ('sentence',),
    # The FNet paper's figure is the accuracy, GLUE's the correlation.
    (label_metrics.matthews_corrcoef, label_metrics.accuracy),
  ),
  _register(
    'sst2', 'sentiment of a sentence: accuracy', ('sentence',), _ACCURACY
  ),
  _register('mrpc', 'paraphrase of a sentence: F1, accuracy', _SENTENCES, _F1),
  _register(
    'qqp',
    'paraphrase of a question: F1, accuracy',
    ('question1', 'question2'),
    _F1,
  ),
  _register(
    'stsb',
    'similarity of two sentences: correlations',
    _SENTENCES,
    (label_metrics.correlations,),
  ),
  _register(
    'mnli',
    'entailment, genres seen in training: accuracy',
    _MNLI,
    _ACCURACY,
    splits={'train': 'train', 'validation': 'validation_matched'},
  ),
  _register(
    'mnli_mismatched',
    'entailment, unseen genres: accuracy',
    _MNLI,
    _ACCURACY,
    config='mnli',
    splits={'validation': 'validation_mismatched'},
  ),
  _register(
    'qnli',
    'answerability of a question by a sentence: accuracy',
    ('question', 'sentence'),
    _ACCURACY,
  ),
  _register('rte', 'entailment: accuracy', _SENTENCES, _ACCURACY),
  _register(
    'wnli',
    'entailment after resolving a pronoun: accuracy',
    _SENTENCES,
    _ACCURACY,
  ),
)


def _register_mnli_both() -> registration.Entry:
  name = _task_name(_MNLI_BOTH)
  parts = [_task_name('mnli'), _task_name('mnli_mismatched')]
  # Only one of them has a training split.
  seqio.MixtureRegistry.add(name, parts, default_rate=1.0)
  return registration.Entry(
    name,
    f'TFDS glue/mnli:{glue.VERSION}',
    'entailment, validated on seen and on unseen genres: accuracy',
    FEATURE_LENGTHS,
  )


ENTRIES = (*TASKS, _register_mnli_both())


@gin.configurable(module='glue_classification')
def task_name(task: str) -> str:
  """Returns the task or mixture to fine-tune on.

  Args:
    task: a key of `NUM_CLASSES`; 'mnli' is evaluated on both validation splits.

  Raises:
    ValueError: there is no such task, or it has no training split.
  """
  _check_task(task)
  return _task_name(_MNLI_BOTH if task == 'mnli' else task)


@gin.configurable(module='glue_classification')
def num_classes(task: str) -> int:
  """Returns the number of outputs of the classification head; 1 for a score.

  Raises:
    ValueError: see `task_name`.
  """
  _check_task(task)
  return NUM_CLASSES[task]


@gin.configurable(module='glue_classification')
def train_steps(task: str, batch_size: int, epochs: float) -> int:
  """Returns the number of batches in `epochs` passes over the training data.

  Args:
    task: see `task_name`.
    batch_size: examples per batch.
    epochs: number of passes, not necessarily whole.

  Raises:
    FileNotFoundError: the data is missing.
    ValueError: see `task_name`.
  """
  _check_task(task)
  source = seqio.TaskRegistry.get(_task_name(task))
  # At least one, for samples of the data that are smaller than a batch.
  return max(1, int(source.num_input_examples('train') * epochs) // batch_size)


def _check_task(task: str) -> None:
  known = [name for name in NUM_CLASSES if name != 'mnli_mismatched']
  if task not in known:
    raise ValueError(f'GLUE_TASK is {task!r}; use one of {", ".join(known)}')
