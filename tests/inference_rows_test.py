"""Rows of inference, as a `write_fn` of T5X's gets them."""

import json

import numpy as np
import pytest
import seqio
import small_runs
import tensorflow as tf

from fnet_t5x import inference_rows

TASK = 'inference_rows_cut'


@pytest.fixture
def task():
  """Returns a task without `inputs_pretokenized`, as our objectives are."""
  if TASK not in seqio.TaskRegistry.names():
    echo = small_runs.register()
    seqio.TaskRegistry.add(
      TASK,
      source=echo.source,
      preprocessors=[
        *echo.preprocessors,
        lambda dataset: dataset.map(
          lambda example: {k: example[k] for k in ('inputs', 'targets')}
        ),
      ],
      output_features=echo.output_features,
    )
  return seqio.TaskRegistry.get(TASK)


def test_rows_of_padded_examples_have_the_texts(task, tmp_path):
  """T5X pads the examples of a chunk to the same length."""
  examples = task.get_dataset(None, 'validation', shuffle=False).take(3)
  source = [
    example['inputs_pretokenized'].decode()
    for example in seqio.get_mixture_or_task(small_runs.TASK)
    .get_dataset(None, 'validation', shuffle=False)
    .take(3)
    .as_numpy_iterator()
  ]
  padded = examples.padded_batch(3, {'inputs': [40], 'targets': [30]}).unbatch()
  outputs = [[*small_runs.VOCABULARY.encode(word), 1] for word in 'abc']
  path = tmp_path / 'rows'
  inference_rows.write_inferences(
    str(path),
    (outputs, {'scores': np.float32([1, 2, 3])}),
    padded,
    'predict_with_aux',
    small_runs.VOCABULARY,
    mixture_or_task_name=TASK,
  )
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert [row['inputs']['inputs'] for row in rows] == source
  assert [row['prediction'] for row in rows] == ['a', 'b', 'c']
  assert [row['aux'] for row in rows] == [{'scores': i} for i in (1, 2, 3)]
  # The same as of the runtime, whose examples are not padded.
  own = inference_rows.lines(
    examples.as_numpy_iterator(),
    (outputs, {'scores': [1.0, 2.0, 3.0]}),
    'predict_with_aux',
    task.output_features,
  )
  assert ''.join(own) == path.read_text()


def test_a_label_of_zero_is_not_padding():
  feature = seqio.Feature(seqio.PassThroughVocabulary(size=2), rank=1)
  (line,) = inference_rows.lines(
    [{'label': np.array([0])}], ([[0.1, 0.9]], {}), 'score', {'label': feature}
  )
  assert json.loads(line) == {'inputs': {'label': [0]}, 'score': [0.1, 0.9]}


def test_scores(task, tmp_path):
  examples = task.get_dataset(None, 'validation', shuffle=False).take(2)
  path = tmp_path / 'rows'
  inference_rows.write_inferences(
    str(path),
    (tf.constant([0.5, 2.0]).numpy(), {}),
    examples,
    'score',
    mixture_or_task_name=TASK,
  )
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert [row['score'] for row in rows] == [0.5, 2.0]
  assert all(row.keys() == {'inputs', 'score'} for row in rows)
