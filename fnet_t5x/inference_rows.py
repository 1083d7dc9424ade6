"""Rows that inference writes, with either engine."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from fnet_t5x import example_texts

Example = Mapping[str, Any]
# Tokens or scores in the examples' order, and auxiliary values by name.
Inferences = tuple[Sequence[Any], Mapping[str, Sequence[Any]]]


def lines(
  examples: Iterable[Example],
  inferences: Inferences,
  mode: str,
  features: Mapping[str, seqio.Feature],
) -> Iterator[str]:
  """Yields one JSON line per example.

  Args:
    examples: NumPy arrays by name, as the task makes them; they may be padded.
    inferences: what the model returns for them.
    mode: 'predict', 'score' or 'predict_with_aux'.
    features: of the task.
  """
  outputs, auxiliary = inferences
  for index, example in enumerate(examples):
    texts = example_texts.texts(_unpadded(example, features), features)
    row: dict[str, Any] = {'inputs': texts}
    output = example_texts.plain(outputs[index])
    if mode == 'score':
      row['score'] = output
    else:
      # Classes and numbers of a model that generates no text.
      is_text = 'targets' in features
      row['prediction'] = (
        text(output, features['targets'].vocabulary) if is_text else output
      )
    if auxiliary:
      row['aux'] = {
        name: example_texts.plain(values[index])
        for name, values in auxiliary.items()
      }
    yield json.dumps(row) + '\n'


def write_inferences(
  path: str,
  inferences: Inferences,
  task_ds: tf.data.Dataset,
  mode: str,
  vocabulary: seqio.Vocabulary | None = None,
  *,
  mixture_or_task_name: str,
) -> None:
  """Writes rows to a file: an `infer.write_fn` of T5X's.

  T5X's own writes only texts that the task keeps as `..._pretokenized`, which
  tasks that make examples from pieces of documents do not have.

  Args:
    path: the file.
    inferences: what the model returns.
    task_ds: the task's examples.
    mode: T5X's mode of inference.
    vocabulary: of the targets; the task has it, too.
    mixture_or_task_name: the task, or the mixture that it is in.
  """
  del vocabulary
  features = seqio.get_mixture_or_task(mixture_or_task_name).output_features
  with tf.io.gfile.GFile(path, 'w') as f:
    for line in lines(task_ds.as_numpy_iterator(), inferences, mode, features):
      f.write(line)


def text(output: list, vocabulary: seqio.Vocabulary) -> Any:
  """Returns decoded text; a list if the model returns several decodes."""
  if output and isinstance(output[0], list):
    return [text(decode, vocabulary) for decode in output]
  return vocabulary.decode(output)


def _unpadded(
  example: Example, features: Mapping[str, seqio.Feature]
) -> dict[str, Any]:
  """Returns an example without the zeros that end its features in a batch.

  The first value stays: of a label, 0 is one of the values.
  """
  return {
    name: value[: max(1, len(np.trim_zeros(value, 'b')))]
    if name in features and value.ndim == 1
    else value
    for name, value in example.items()
  }
