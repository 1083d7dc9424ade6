"""Postprocessing of outputs and targets for the metrics."""

import numpy as np
import pytest

from fnet_t5x.tasks import postprocessors


def test_labels_are_exact_or_invalid():
  labels = ('not_entailment', 'entailment')
  outputs = ['entailment', 'not_entailment', 'Entailment', 'entail', '']
  ids = [postprocessors.label_id(o, labels=labels) for o in outputs]
  assert ids == [1, 0, -1, -1, -1]


@pytest.mark.parametrize(
  ('text', 'number'),
  [('3.4', 3.4), ('-2', -2), ('x', -1), ('', -1), ('nan', -1), ('inf', -1)],
)
def test_numbers_are_finite(text, number):
  assert postprocessors.number(text) == number


@pytest.mark.parametrize(
  ('output', 'candidate', 'same'),
  [
    ('Bob', 'bob', 1),
    ('the fuzzy bunny', 'bunny', 1),
    ('bunny', 'a fuzzy bunny', 1),
    ('bunnies', 'bunny', 0),
    ('Bob', "Bob's hat", 0),
    ('hat', "Bob's hat", 0),
    ("Bob's", "Bob's hat", 1),
    ('', 'Bob', 0),
    ('the', 'the bunny', 0),
  ],
)
def test_referents_are_compared_by_words(output, candidate, same):
  example = {'targets_pretokenized': candidate.encode(), 'label': 1 - same}
  assert postprocessors.names_referent(output, example=example) == same
  of_target = postprocessors.names_referent(
    candidate, example=example, is_target=True
  )
  assert of_target == 1 - same


@pytest.mark.parametrize(
  ('text', 'word'),
  [
    ('Gabriel , he said', 'Gabriel'),
    ('word. And', 'word'),
    ('  dogs"', 'dogs'),
    ("n't go", "n't"),
    ('...', '...'),
    ('', ''),
  ],
)
def test_first_words_lack_trailing_punctuation(text, word):
  assert postprocessors.first_word(text) == word


def test_targets_carry_what_the_metrics_need():
  example = {
    'targets': np.array([5, 2, 7, 2]),
    'text_bytes': np.int32(11),
    'text_words': np.int32(3),
    'answers': np.array(['é'.encode(), b'b'], object),
    'idx/paragraph': np.int32(4),
    'idx/question': np.int32(5),
    'idx/passage': np.int32(6),
    'idx/query': np.int32(7),
  }
  target = {'example': example, 'is_target': True}
  assert postprocessors.text_extent('', **target) == {
    'tokens': 4,
    'unknown_tokens': 2,
    'bytes': 11,
    'words': 3,
  }
  assert postprocessors.last_word('dog', **target) == {
    'word': 'dog',
    'tokens': 4,
  }
  assert postprocessors.all_answers('é', **target) == ['é', 'b']
  assert postprocessors.record_answers('é', **target) == {
    'value': ['é', 'b'],
    'group': (6, 7),
  }
  assert postprocessors.multirc_label('True', **target) == {
    'value': 1,
    'group': (4, 5),
  }
  output = {'example': example, 'is_target': False}
  assert postprocessors.multirc_label('true', **output) == -1
  for same in ('all_answers', 'record_answers', 'text_extent'):
    assert getattr(postprocessors, same)('x', **output) == 'x'
