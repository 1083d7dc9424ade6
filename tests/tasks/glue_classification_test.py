"""GLUE's tasks with labels, from TFDS examples to features to metrics."""

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf
import tfds_folders

from fnet_t5x import feature_converters
from fnet_t5x.tasks import glue, glue_classification

_LENGTHS = {'inputs': 48, 'type_ids': 48, 'label': 1}
# (task, TFDS config, TFDS split, texts in the order of the row, label).
_CASES = [
  ('cola', 'cola', 'validation', {'sentence': 'John made Bill.'}, 1),
  ('sst2', 'sst2', 'validation', {'sentence': 'it is dull'}, 0),
  (
    'mrpc',
    'mrpc',
    'validation',
    {'sentence1': 'We acted .', 'sentence2': 'We said so .'},
    0,
  ),
  (
    'qqp',
    'qqp',
    'validation',
    {'question1': 'Why?', 'question2': 'Why so?'},
    1,
  ),
  (
    'stsb',
    'stsb',
    'validation',
    {'sentence1': 'A b.', 'sentence2': 'C.'},
    3.75,
  ),
  (
    'mnli',
    'mnli',
    'validation_matched',
    {'hypothesis': 'He moved.', 'premise': 'He ran.'},
    2,
  ),
  (
    'mnli_mismatched',
    'mnli',
    'validation_mismatched',
    {'hypothesis': 'He sat.', 'premise': 'He ran.'},
    1,
  ),
  (
    'qnli',
    'qnli',
    'validation',
    {'question': 'Who?', 'sentence': 'Ann did.'},
    0,
  ),
  (
    'rte',
    'rte',
    'validation',
    {'sentence1': 'It rains.', 'sentence2': 'It is dry.'},
    1,
  ),
  (
    'wnli',
    'wnli',
    'validation',
    {'sentence1': 'It fell.', 'sentence2': 'The cup fell.'},
    1,
  ),
]


def _read(task, split='validation', lengths=None):
  return list(
    seqio.get_mixture_or_task(f'fnet_glue_{task}_classification')
    .get_dataset(lengths or _LENGTHS, split, shuffle=False, num_epochs=1)
    .as_numpy_iterator()
  )


def _marks(vocabulary):
  """Returns ids of [CLS] and [SEP] in a vocabulary without such pieces."""
  return vocabulary.vocab_size - 2, vocabulary.vocab_size - 3


@pytest.mark.slow
@pytest.mark.parametrize(
  ('task', 'config', 'split', 'texts', 'label'),
  _CASES,
  ids=[case[0] for case in _CASES],
)
def test_rows_types_and_labels(
  small_vocabulary, tfds_dir, task, config, split, texts, label
):
  tfds_folders.write_known(
    tfds_dir, f'glue/{config}:2.0.0', {split: [{**texts, 'label': label}]}
  )
  (example,) = _read(task)
  cls, sep = _marks(small_vocabulary)
  tokens, types = [cls], [0]
  for number, text in enumerate(texts.values()):
    part = [*small_vocabulary.encode(text), sep]
    tokens += part
    types += [number] * len(part)
  assert example['inputs'].tolist() == tokens
  assert example['type_ids'].tolist() == types
  assert example['label'].tolist() == [label]
  dtype = np.float32 if task == 'stsb' else np.int32
  assert example['label'].dtype == dtype
  assert glue_classification.NUM_CLASSES[task] == {'mnli': 3, 'stsb': 1}.get(
    config, 2
  )


def _cut_one_by_one(first, second, max_tokens):
  """BERT's loop: the longer text loses its last token; the second, if equal."""
  first, second = list(first), list(second)
  while len(first) + len(second) > max_tokens:
    (first if len(first) > len(second) else second).pop()
  return first, second


def test_longer_text_is_cut_first():
  for first in (1, 4, 9, 20):
    for second in (1, 3, 10, 21):
      for room in (2, 7, 8, 25, 60):
        a, b = range(first), range(100, 100 + second)
        cut = glue_classification.truncate_pair(
          tf.constant(a, tf.int32), tf.constant(b, tf.int32), room
        )
        expected = _cut_one_by_one(a, b, room)
        assert tuple(x.numpy().tolist() for x in cut) == expected


@pytest.mark.parametrize('task', ['sst2', 'rte'])
def test_long_rows_keep_their_marks(small_vocabulary, tfds_dir, task):
  texts = (
    {'sentence': 'a long sentence ' * 30}
    if task == 'sst2'
    else {'sentence1': 'It rains.', 'sentence2': 'a long sentence ' * 30}
  )
  tfds_folders.write_known(
    tfds_dir, f'glue/{task}:2.0.0', {'validation': [{**texts, 'label': 1}]}
  )
  lengths = {'inputs': 32, 'type_ids': 32, 'label': 1}
  (example,) = _read(task, lengths=lengths)
  cls, sep = _marks(small_vocabulary)
  inputs = example['inputs'].tolist()
  assert len(inputs) == len(example['type_ids']) == 32
  assert (inputs[0], inputs[-1]) == (cls, sep)
  assert inputs.count(sep) == len(texts)
  if task == 'rte':
    first = small_vocabulary.encode('It rains.')
    assert inputs[1 : len(first) + 2] == [*first, sep]


@pytest.mark.parametrize(
  'lengths',
  [
    {'inputs': 16, 'type_ids': 17, 'label': 1},
    {'inputs': 4, 'type_ids': 4, 'label': 1},
    {'inputs': 16, 'type_ids': 16, 'label': 2},
    {'inputs': 16, 'label': 1},
  ],
)
def test_invalid_lengths_are_an_error(small_vocabulary, tfds_dir, lengths):
  tfds_folders.write_known(
    tfds_dir, 'glue/cola:2.0.0', {'validation': [{'label': 1}]}
  )
  with pytest.raises(ValueError, match='label to 1'):
    _read('cola', lengths=lengths)


def test_ids_can_be_set(small_vocabulary, tfds_dir):
  tfds_folders.write_known(
    tfds_dir, 'glue/cola:2.0.0', {'validation': [{'label': 1}]}
  )
  gin.parse_config(
    'glue_classification.join_texts.cls_id = 11\n'
    'glue_classification.join_texts.sep_id = 12'
  )
  (example,) = _read('cola')
  assert example['inputs'].tolist() == [11, 12]


def _evaluate(task, outputs, converter):
  """Returns the metrics of a model with these outputs, in order."""

  def predict(dataset):
    return [(int(i), outputs[int(i)]) for i, _ in dataset.as_numpy_iterator()]

  evaluator = seqio.Evaluator(
    f'fnet_glue_{task}_classification',
    feature_converter=converter(pack=False),
    sequence_length=_LENGTHS,
  )
  metrics, _ = evaluator.evaluate(
    compute_metrics=True, step=0, predict_fn=predict
  )
  return metrics.result()


def test_evaluator_scores_classes(small_vocabulary, tfds_dir):
  tfds_folders.write_known(
    tfds_dir,
    'glue/mrpc:2.0.0',
    {
      'validation': [
        {'sentence1': f'{i}', 'sentence2': 'x', 'label': label}
        for i, label in enumerate([0, 1, 1, 1])
      ]
    },
  )
  values = _evaluate(
    'mrpc', [1, 1, 0, 1], feature_converters.ClassificationFeatureConverter
  )
  # Class 1: 2 true positives, 1 false positive, 1 miss.
  f1 = 100 * 4 / 6
  assert values == {
    'fnet_glue_mrpc_classification': {
      'f1': pytest.approx(f1),
      'accuracy': 50,
      'f1_accuracy_mean': pytest.approx((f1 + 50) / 2),
    }
  }


def test_evaluator_scores_numbers(small_vocabulary, tfds_dir):
  scores = [0.5, 1.0, 2.5, 5.0]
  tfds_folders.write_known(
    tfds_dir,
    'glue/stsb:2.0.0',
    {'validation': [{'sentence1': 'a', 'label': score} for score in scores]},
  )
  outputs = [0.25, 3.5, 1.0, 4.0]
  values = _evaluate(
    'stsb', outputs, feature_converters.RegressionFeatureConverter
  )
  pearson = np.corrcoef(scores, outputs)[0, 1]
  assert values == {
    'fnet_glue_stsb_classification': {
      'pearson_corrcoef': pytest.approx(100 * pearson),
      'spearman_corrcoef': pytest.approx(80),
    }
  }


def test_mnli_is_evaluated_on_both_splits(small_vocabulary, tfds_dir):
  example = {'premise': 'a', 'hypothesis': 'b'}
  tfds_folders.write_known(
    tfds_dir,
    'glue/mnli:2.0.0',
    {
      'train': [{**example, 'label': 2}] * 3,
      'validation_matched': [{**example, 'label': 0}],
      'validation_mismatched': [{**example, 'label': 1}],
    },
  )
  assert [e['label'].item() for e in _read('mnli_both', 'train')] == [2] * 3
  values = _evaluate(
    'mnli_both', [0], feature_converters.ClassificationFeatureConverter
  )
  assert values == {
    'fnet_glue_mnli_classification': {'accuracy': 100},
    'fnet_glue_mnli_mismatched_classification': {'accuracy': 0},
  }


def test_run_is_as_long_as_its_epochs(tfds_dir):
  tfds_folders.write_known(
    tfds_dir, 'glue/rte:2.0.0', {'train': [{'label': 1}] * 21}
  )
  steps = glue_classification.train_steps
  assert steps('rte', batch_size=4, epochs=3) == 15
  assert steps('rte', batch_size=64, epochs=3) == 1
  with pytest.raises(ValueError, match='GLUE_TASK'):
    steps('mnli_mismatched', batch_size=4, epochs=3)


def test_tasks_are_those_of_text_to_text():
  names = [entry.name for entry in glue_classification.TASKS]
  assert names == [f'{entry.name}_classification' for entry in glue.TASKS]
  assert glue_classification.task_name('mnli') == (
    'fnet_glue_mnli_both_classification'
  )
