"""SQuAD, from TFDS examples to text to metrics."""

import pytest
import tfds_folders

from fnet_t5x.tasks import squad

(_TASK,) = (entry.name for entry in squad.ENTRIES)


def test_questions_on_paragraphs(small_vocabulary, tfds_dir):
  example = {
    'id': 'x1',
    'title': 'T',
    'context': 'In 1998,\nthe U.S. team (Denver) won.',
    'question': 'Who won  it?',
    'answers': [
      {'text': 'the U.S. team', 'answer_start': 9},
      {'text': 'Denver', 'answer_start': 24},
    ],
  }
  other = {**example, 'answers': [{'text': '1998', 'answer_start': 3}]}
  tfds_folders.write_known(
    tfds_dir, 'squad/v1.1:3.0.0', {'validation': [example, other]}
  )
  first, second = tfds_folders.read_task(_TASK)
  inputs = (
    'question: Who won it ? context: In 1998 , the U . S . team ( Denver ) won'
    ' . '
  )
  assert first['inputs_pretokenized'] == inputs
  assert first['targets_pretokenized'] == 'the U . S . team'
  assert second['targets_pretokenized'] == '1998'
  assert first['inputs'].tolist() == [*small_vocabulary.encode(inputs), 1]
  values = tfds_folders.evaluate(_TASK, ['Denver', 'in 1998'])
  # The second's F1: precision 1/2, recall 1.
  assert values == {
    'em': 50,
    'f1': pytest.approx(100 * (1 + 2 / 3) / 2),
  }
