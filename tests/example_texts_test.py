"""Readable rows of an evaluation: input and target texts."""

import json

import numpy as np
import seqio
import small_runs
import tensorflow as tf

from fnet_t5x import example_texts

TEXT = 'a text of more ids than a row of numbers would show'


def ids(text):
  return [*small_runs.VOCABULARY.encode(text), 1]


def rows(tmp_path, logger, example):
  task = small_runs.register()
  dataset = tf.data.Dataset.from_tensors(
    {name: tf.constant(value) for name, value in example.items()}
  )
  logger(output_dir=str(tmp_path))(
    task.name,
    7,
    {'accuracy': seqio.metrics.Scalar(0.5)},
    dataset,
    {'prediction': ['the model says']},
    ['what was wanted'],
  )
  path = tmp_path / f'{task.name}-000007.jsonl'
  with open(path) as f:
    return [json.loads(line) for line in f]


def test_ids_become_texts(tmp_path):
  example = {'inputs': ids(TEXT), 'targets': ids('no'), 'number': [1, 2]}
  (row,) = rows(tmp_path, example_texts.JSONLogger, example)
  assert row == {
    'input': {'inputs': TEXT, 'targets': 'no', 'number': [1, 2]},
    'prediction': 'the model says',
    'target': 'what was wanted',
  }
  # SeqIO's own row, of the same fields.
  (before,) = rows(tmp_path, seqio.JSONLogger, example)
  assert before.keys() == row.keys()
  assert 'ndarray' in before['input']['inputs']
  metrics = (tmp_path / f'{small_runs.TASK}-metrics.jsonl').read_text()
  assert metrics == '{"step": 7, "accuracy": 0.5}\n' * 2


def test_texts_before_tokenization_are_shown_unchanged(tmp_path):
  example = {
    'inputs': ids('Wie es war'),
    'inputs_pretokenized': 'Wie es WAR',
    'targets': ids('no'),
  }
  (row,) = rows(tmp_path, example_texts.JSONLogger, example)
  assert row['input'] == {'inputs_pretokenized': 'Wie es WAR', 'targets': 'no'}
  arrays = {
    'inputs': np.asarray(example['inputs']),
    'inputs_pretokenized': b'Wie es WAR',
    'targets': np.asarray(example['targets']),
  }
  shown = example_texts.texts(arrays, small_runs.register().output_features)
  assert shown == row['input']


def test_ids_without_texts_stay_ids():
  features = {'inputs': seqio.Feature(seqio.PassThroughVocabulary(100))}
  dataset = tf.data.Dataset.from_tensors({'inputs': tf.constant([3, 4])})
  (row,) = example_texts._readable(dataset, features).as_numpy_iterator()
  assert row['inputs'].tolist() == [3, 4]
  assert example_texts.texts(row, features) == {'inputs': [3, 4]}
