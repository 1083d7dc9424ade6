"""Human-readable examples: texts instead of token ids."""

from collections.abc import Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

_TEXT = '_pretokenized'


def texts(
  example: Mapping[str, Any], features: Mapping[str, seqio.Feature]
) -> dict[str, Any]:
  """Returns the texts of an example's features.

  Args:
    example: NumPy arrays by name.
    features: of the task.

  Returns:
    The texts before tokenization, by their names (`inputs_pretokenized`); for
    features without one, the decoded ids, by the feature's name.
  """
  shown = {k: plain(v) for k, v in example.items() if k.endswith(_TEXT)}
  for name, feature in features.items():
    if name in example and f'{name}{_TEXT}' not in shown:
      shown[name] = feature.vocabulary.decode(example[name].tolist())
  return shown


def plain(value: Any) -> Any:
  """Returns an array, or bytes, as a value that JSON can represent."""
  if isinstance(value, bytes):
    return value.decode('utf-8')
  if hasattr(value, 'tolist'):
    return plain(value.tolist())
  if isinstance(value, list):
    return [plain(item) for item in value]
  return value


class JSONLogger(seqio.JSONLogger):
  """SeqIO's JSON lines of an evaluation, with texts instead of token ids."""

  def __call__(
    self,
    task_name: str,
    step: int | None,
    metrics: Mapping[str, Any],
    dataset: tf.data.Dataset | None,
    inferences: Mapping[str, Sequence[Any]] | None,
    targets: Sequence[Any] | None,
  ) -> None:
    """Writes metrics and examples, as SeqIO's logger does."""
    if dataset is not None:
      features = seqio.get_mixture_or_task(task_name).output_features
      dataset = _readable(dataset, features)
    super().__call__(task_name, step, metrics, dataset, inferences, targets)


def _readable(
  dataset: tf.data.Dataset, features: Mapping[str, seqio.Feature]
) -> tf.data.Dataset:
  """Replaces the token ids of examples by texts, as `texts` does."""
  spec = dataset.element_spec
  decoded, dropped = {}, set()
  for name, feature in features.items():
    if name not in spec or spec[name].shape.rank != 1:
      continue
    if f'{name}{_TEXT}' in spec:
      dropped.add(name)
    elif spec[name].dtype.is_integer and not isinstance(
      feature.vocabulary, seqio.PassThroughVocabulary
    ):
      decoded[name] = feature.vocabulary

  def readable(example):
    shown = {k: v for k, v in example.items() if k not in dropped}
    for name, vocabulary in decoded.items():
      shown[name] = tf.numpy_function(
        lambda ids, vocabulary=vocabulary: vocabulary.decode(
          ids.tolist()
        ).encode(),
        [example[name]],
        tf.string,
      )
    return shown

  return dataset.map(readable)
