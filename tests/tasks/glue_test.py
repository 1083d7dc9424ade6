"""GLUE's tasks, from TFDS examples to text to metrics."""

import pytest
import seqio
import tfds_folders

from fnet_t5x.tasks import evaluation, evaluation_table, glue

# (task, TFDS config, TFDS split, example, inputs, targets). Formats as in
# appendix D of Raffel et al. 2020.
_CASES = [
  (
    'cola',
    'cola',
    'validation',
    {'sentence': 'John made Bill master of  himself.', 'label': 1},
    'cola sentence: John made Bill master of  himself.',
    'acceptable',
  ),
  (
    'sst2',
    'sst2',
    'validation',
    {'sentence': 'it is dull', 'label': 0},
    'sst2 sentence: it is dull',
    'negative',
  ),
  (
    'mrpc',
    'mrpc',
    'validation',
    {'sentence1': 'We acted .', 'sentence2': 'We said so .', 'label': 0},
    'mrpc sentence1: We acted . sentence2: We said so .',
    'not_equivalent',
  ),
  (
    'qqp',
    'qqp',
    'validation',
    {'question1': 'Why?', 'question2': 'Why so?', 'label': 1},
    'qqp question1: Why? question2: Why so?',
    'duplicate',
  ),
  (
    'mnli',
    'mnli',
    'validation_matched',
    {'premise': 'He ran.', 'hypothesis': 'He moved.', 'label': 0},
    'mnli hypothesis: He moved. premise: He ran.',
    'entailment',
  ),
  (
    'mnli_mismatched',
    'mnli',
    'validation_mismatched',
    {'premise': 'He ran.', 'hypothesis': 'He sat.', 'label': 2},
    'mnli hypothesis: He sat. premise: He ran.',
    'contradiction',
  ),
  (
    'qnli',
    'qnli',
    'validation',
    {'question': 'Who?', 'sentence': 'Ann did.', 'label': 0},
    'qnli question: Who? sentence: Ann did.',
    'entailment',
  ),
  (
    'rte',
    'rte',
    'validation',
    {'sentence1': 'It rains.', 'sentence2': 'It is dry.', 'label': 1},
    'rte sentence1: It rains. sentence2: It is dry.',
    'not_entailment',
  ),
  (
    'wnli',
    'wnli',
    'validation',
    {'sentence1': 'It fell.', 'sentence2': 'The cup fell.', 'label': 1},
    'wnli sentence1: It fell. sentence2: The cup fell.',
    'entailment',
  ),
]


@pytest.mark.slow
@pytest.mark.parametrize(
  ('task', 'config', 'split', 'example', 'inputs', 'targets'), _CASES
)
def test_examples_become_text(
  small_vocabulary, tfds_dir, task, config, split, example, inputs, targets
):
  other = {**example, 'label': 1 - example['label'] % 2}
  tfds_folders.write_known(
    tfds_dir, f'glue/{config}:2.0.0', {split: [example, other]}
  )
  first, second = tfds_folders.read_task(f'fnet_glue_{task}')
  assert first['inputs_pretokenized'] == inputs
  assert first['targets_pretokenized'] == targets
  assert second['targets_pretokenized'] != targets
  vocabulary = small_vocabulary
  assert first['inputs'].tolist() == [*vocabulary.encode(inputs), 1]
  assert first['targets'].tolist() == [*vocabulary.encode(targets), 1]


def test_similarity_is_rounded_to_a_fifth(small_vocabulary, tfds_dir):
  scores = {1.8: '1.8', 3.3333: '3.4', 0.0: '0.0', 4.89: '4.8', 5.0: '5.0'}
  tfds_folders.write_known(
    tfds_dir,
    'glue/stsb:2.0.0',
    {
      'validation': [
        {'sentence1': 'A b.', 'sentence2': 'C.', 'label': score}
        for score in scores
      ]
    },
  )
  examples = tfds_folders.read_task('fnet_glue_stsb')
  assert examples[0]['inputs_pretokenized'] == (
    'stsb sentence1: A b. sentence2: C.'
  )
  texts = [e['targets_pretokenized'] for e in examples]
  assert texts == list(scores.values())


def test_inputs_are_truncated_and_end_in_eos(small_vocabulary, tfds_dir):
  tfds_folders.write_known(
    tfds_dir,
    'glue/sst2:2.0.0',
    {'validation': [{'sentence': 'a long sentence ' * 30, 'label': 1}]},
  )
  (example,) = tfds_folders.read_task('fnet_glue_sst2', inputs=20, targets=3)
  assert len(example['inputs']) == 20
  assert example['inputs'][-1] == 1
  assert len(example['targets']) == 3
  assert example['targets'][-1] == 1


def test_evaluator_scores_outputs(small_vocabulary, tfds_dir):
  labels = [0, 1, 1, 1]
  tfds_folders.write_known(
    tfds_dir,
    'glue/mrpc:2.0.0',
    {
      'validation': [
        {'sentence1': f'{i}', 'sentence2': 'x', 'label': label}
        for i, label in enumerate(labels)
      ]
    },
  )
  outputs = ['equivalent', 'equivalent', 'not_equivalent', 'equivalence']
  values = tfds_folders.evaluate('fnet_glue_mrpc', outputs)
  # One of four is right; class 1: 1 true positive, 1 false positive, 2 misses.
  assert values == {'f1': pytest.approx(40), 'accuracy': 25}


def test_mixture_takes_tasks_by_size(small_vocabulary, tfds_dir, monkeypatch):
  sizes = {'cola': 2, 'sst2': 3, 'mnli': 9}
  for name, size in sizes.items():
    example = {'label': 0}
    splits = {'train': [example] * size, 'validation': [example]}
    if name == 'mnli':
      splits['validation_matched'] = splits.pop('validation')
      splits['validation_mismatched'] = [example]
    tfds_folders.write_known(tfds_dir, f'glue/{name}:2.0.0', splits)
  monkeypatch.setattr(evaluation, 'RATE_CAP', 5)
  mixture = seqio.get_mixture_or_task('fnet_glue')
  assert len(mixture.tasks) == 10
  rates = {
    name: mixture.get_rate(seqio.TaskRegistry.get(f'fnet_glue_{name}'))
    for name in ('cola', 'sst2', 'mnli', 'mnli_mismatched')
  }
  assert rates == {'cola': 2, 'sst2': 3, 'mnli': 5, 'mnli_mismatched': 0}


def test_only_labelled_splits_are_offered():
  for entry in glue.TASKS:
    splits = set(seqio.TaskRegistry.get(entry.name).splits)
    assert splits <= {'train', 'validation'}
    assert entry.name in evaluation_table.EVALUATION_TASKS
