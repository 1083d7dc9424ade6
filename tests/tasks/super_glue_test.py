"""SuperGLUE's tasks, from TFDS examples to text to metrics."""

import pytest
import seqio
import tfds_folders

from fnet_t5x.tasks import evaluation_table, super_glue

# (task, example, inputs, targets). Formats as in appendix D of Raffel et
# al. 2020.
_CASES = [
  (
    'boolq',
    {'question': 'is it so', 'passage': 'It -- so.', 'label': 1},
    'boolq passage: It -- so. question: is it so',
    'True',
  ),
  (
    'cb',
    {'premise': 'Valence was.', 'hypothesis': 'Valence is.', 'label': 1},
    'cb hypothesis: Valence is. premise: Valence was.',
    'contradiction',
  ),
  (
    'copa',
    {
      'premise': 'It rained.',
      'choice1': 'I ran.',
      'choice2': 'I sat.',
      'question': 'effect',
      'label': 0,
    },
    'copa choice1: I ran. choice2: I sat. premise: It rained. question: effect',
    'choice1',
  ),
  (
    'rte',
    {'premise': 'It rains.', 'hypothesis': 'It is dry.', 'label': 1},
    'rte hypothesis: It is dry. premise: It rains.',
    'not_entailment',
  ),
  (
    'wic',
    {'sentence1': 'Air it.', 'sentence2': 'On air.', 'word': 'air'},
    'wic sentence1: Air it. sentence2: On air. word: air',
    'False',
  ),
  (
    'multirc',
    {
      'paragraph': '<b>Sent 1: </b>He ran.<br><b>Sent 2: </b>Far.<br>',
      'question': 'Who?',
      'answer': 'He',
      'label': 1,
    },
    'multirc question: Who? answer: He paragraph: Sent 1: He ran. Sent 2: Far.'
    ' ',
    'True',
  ),
]


@pytest.mark.parametrize(('task', 'example', 'inputs', 'targets'), _CASES)
def test_examples_become_text(
  small_vocabulary, tfds_dir, task, example, inputs, targets
):
  tfds_folders.write_known(
    tfds_dir, f'super_glue/{task}:1.0.2', {'validation': [example]}
  )
  (first,) = tfds_folders.read_task(f'fnet_super_glue_{task}')
  assert first['inputs_pretokenized'] == inputs
  assert first['targets_pretokenized'] == targets
  assert first['inputs'].tolist() == [*small_vocabulary.encode(inputs), 1]
  assert first['targets'].tolist() == [*small_vocabulary.encode(targets), 1]


_RECORD = [
  {
    'passage': 'It is over.\n@highlight\nAnn won\n@highlight\nBob "lost"',
    'query': '@placeholder won it.',
    'entities': ['Ann', 'Ann Lee', 'Bob'],
    'answers': ['Ann', 'Ann Lee'],
    'idx': {'passage': 3, 'query': 8},
  },
  {
    'passage': 'No marks.',
    'query': 'He beat @placeholder.',
    'entities': ['Bob'],
    'answers': ['Bob'],
    'idx': {'passage': 3, 'query': 9},
  },
]


def test_record_has_one_example_per_answer(small_vocabulary, tfds_dir):
  tfds_folders.write_known(
    tfds_dir, 'super_glue/record:1.0.2', {'validation': _RECORD}
  )
  examples = tfds_folders.read_task('fnet_super_glue_record')
  assert [e['targets_pretokenized'] for e in examples] == [
    'Ann',
    'Ann Lee',
    'Bob',
  ]
  inputs = (
    'record query: @placeholder won it. entities: Ann, Ann Lee, Bob passage:'
    ' It is over. Ann won. Bob "lost"'
  )
  assert [e['inputs_pretokenized'] for e in examples] == [
    inputs,
    inputs,
    'record query: He beat @placeholder. entities: Bob passage: No marks.',
  ]
  # The second example has the first one's query, and does not count.
  values = tfds_folders.evaluate(
    'fnet_super_glue_record', ['Ann Lee', 'Bob', 'Ann']
  )
  assert values == {'em': 50, 'f1': 50}


def test_multirc_groups_answers_by_question(small_vocabulary, tfds_dir):
  answers = [(0, 0, 1), (0, 0, 0), (0, 1, 1), (1, 0, 1)]
  tfds_folders.write_known(
    tfds_dir,
    'super_glue/multirc:1.0.2',
    {
      'validation': [
        {'idx': {'paragraph': p, 'question': q, 'answer': 0}, 'label': label}
        for p, q, label in answers
      ]
    },
  )
  values = tfds_folders.evaluate(
    'fnet_super_glue_multirc', ['True', 'True', 'True', 'True']
  )
  # All labels but one are right; all answers to two of three questions.
  assert values == {
    'f1': pytest.approx(100 * 6 / 7),
    'exact_match': pytest.approx(200 / 3),
  }


_TEXT = 'Mitchell asked Tom if he could lend some money.'
_WSC = [
  {
    'text': _TEXT,
    'span1_text': 'Mitchell',
    'span1_index': 0,
    'span2_text': 'he',
    'span2_index': 4,
    'label': 0,
  },
  {
    'text': _TEXT,
    'span1_text': 'Tom',
    'span1_index': 2,
    'span2_text': 'he',
    'span2_index': 4,
    'label': 1,
  },
  # An index that is off by one, and punctuation in the word.
  {
    'text': 'John laughed. "Good for him," said him.',
    'span1_text': 'John',
    'span2_text': 'him',
    'span2_index': 3,
    'label': 1,
  },
]


def test_pronouns_are_marked(small_vocabulary, tfds_dir):
  tfds_folders.write_known(
    tfds_dir, 'super_glue/wsc.fixed:1.0.2', {'validation': _WSC, 'train': _WSC}
  )
  examples = tfds_folders.read_task('fnet_super_glue_wsc')
  inputs = 'wsc: Mitchell asked Tom if *he* could lend some money.'
  assert [e['inputs_pretokenized'] for e in examples] == [
    inputs,
    inputs,
    'wsc: John laughed. "Good for *him*," said him.',
  ]
  targets = [e['targets_pretokenized'] for e in examples]
  assert targets == ['Mitchell', 'Tom', 'John']
  # For training: the true referents only.
  examples = tfds_folders.read_task('fnet_super_glue_wsc_train', 'train')
  assert [e['targets_pretokenized'] for e in examples] == ['Tom', 'John']
  # Mitchell is rejected and Tom found, both rightly; the last is missed.
  values = tfds_folders.evaluate(
    'fnet_super_glue_wsc', ['tom', 'the Tom', 'Good']
  )
  assert values == {'accuracy': pytest.approx(200 / 3)}


def test_mixture_trains_on_all_and_validates_on_all():
  mixture = seqio.get_mixture_or_task('fnet_super_glue')
  names = {task.name for task in mixture.tasks}
  assert names == {entry.name for entry in super_glue.TASKS}
  assert names < set(evaluation_table.EVALUATION_TASKS)
  by_split = {
    split: {t.name for t in mixture.tasks if split in t.splits}
    for split in mixture.splits
  }
  assert by_split == {
    'train': names - {'fnet_super_glue_wsc'},
    'validation': names - {'fnet_super_glue_wsc_train'},
  }
