"""LAMBADA: the last word, and the text before it."""

import math

import pytest
import tfds_folders

from fnet_t5x.tasks import lambada

(_TASK,) = (entry.name for entry in lambada.ENTRIES)

_PASSAGES = [
  '`` what do you mean , ca n\'t ? " asked\nthe captain of the guard\n',
  'Ann saw the dogs',
]


@pytest.fixture
def folder(tfds_dir):
  return tfds_folders.write_known(
    tfds_dir,
    'lambada:1.0.0',
    {
      'train': [{'passage': p} for p in _PASSAGES],
      'test': [{'passage': 'in the test'}],
    },
  )


def test_last_words(small_vocabulary, folder):
  examples = tfds_folders.read_task(_TASK)
  assert [e['targets_pretokenized'] for e in examples] == ['guard', 'dogs']
  assert [e['inputs_pretokenized'] for e in examples] == [
    '`` what do you mean , ca n\'t ? " asked\nthe captain of the',
    'Ann saw the',
  ]
  (test,) = tfds_folders.read_task(_TASK, 'test')
  assert test['targets_pretokenized'] == 'test'
  # Only the word is scored, without EOS: a text would not end here.
  vocabulary = small_vocabulary
  assert examples[1]['targets'].tolist() == vocabulary.encode('dogs')
  assert examples[1]['inputs'].tolist() == [
    *vocabulary.encode('Ann saw the'),
    1,
  ]
  # Inputs and targets together are the passage, token for token.
  assert [
    *examples[1]['inputs'][:-1],
    *examples[1]['targets'],
  ] == vocabulary.encode(_PASSAGES[1])


def test_long_passages_lose_their_start(small_vocabulary, folder):
  whole, _ = tfds_folders.read_task(_TASK)
  cut, _ = tfds_folders.read_task(_TASK, inputs=8)
  assert cut['inputs'].tolist() == whole['inputs'].tolist()[-8:]


def test_accuracy_and_perplexity(small_vocabulary, folder):
  values = tfds_folders.evaluate(_TASK, ['guard . he', 'dog'])
  sizes = [len(small_vocabulary.encode(word)) for word in ('guard', 'dogs')]
  # The stand-in model gives each token a loss of one nat.
  assert values == {
    'accuracy': 50,
    'perplexity': pytest.approx(math.exp(sum(sizes) / 2)),
    'loss_per_token': pytest.approx(1),
  }
  assert sizes[0] > 1
