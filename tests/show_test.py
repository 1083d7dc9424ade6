"""Readable examples."""

import numpy as np
import pytest
import seqio

from fnet_t5x import show

_VOCABULARY = seqio.ByteVocabulary(extra_ids=10)
_LAST = _VOCABULARY.vocab_size - 1


def _ids(text):
  return _VOCABULARY.encode(text)


def test_special_tokens_are_distinct_from_text():
  ids = [*_ids('we hold '), _LAST, *_ids(' self'), _LAST - 1, _LAST - 9, 1]
  assert show.pieces(ids, _VOCABULARY) == [
    ('we hold ', False),
    ('<extra_id_0>', True),
    (' self', False),
    ('<extra_id_1>', True),
    ('<extra_id_9>', True),
    ('</s>', True),
  ]


def test_a_run_of_padding_is_shown_once():
  assert show.pieces([0, 0, *_ids('a'), 0], _VOCABULARY) == [
    ('·', True),
    ('a', False),
    ('·', True),
  ]


def test_numbers_are_shown_as_they_are():
  vocabulary = seqio.PassThroughVocabulary(5)
  assert show.pieces([0, 3], vocabulary) == [('0 3', True)]


def test_statistics():
  examples = [
    {'inputs': np.array([*_ids('abcd'), _LAST, 1])},
    {'inputs': np.array([*_ids('éé'), 1])},
  ]
  features = {'inputs': seqio.Feature(_VOCABULARY)}
  assert show.statistics(examples, features, {'inputs': 10}) == {
    'inputs': {
      'tokens': (6 + 5) / 2,
      'padding': pytest.approx(1 - 11 / 20),
      'tokens_per_byte': 1.0,
    }
  }


@pytest.mark.slow
def test_a_task_is_shown(small_corpus, capsys):
  show.show('fnet_sotu_span_corruption', 2)
  out = capsys.readouterr().out
  assert out.count('inputs, ') == 2
  assert '<extra_id_0>' in out
  # No colors in a pipe.
  assert '\033' not in out
  last = out.splitlines()[-1]
  assert last.startswith('targets: ') and 'tokens per byte of text' in last


@pytest.mark.parametrize(
  ('task', 'split', 'message'),
  [
    ('fnet_sotu_prefix', 'train', 'did you mean fnet_sotu_prefix_lm'),
    ('fnet_sotu_prefix_lm', 'test', "no split 'test'; it has train, valida"),
  ],
)
def test_bad_names_are_errors(task, split, message):
  with pytest.raises(ValueError, match=message):
    show.show(task, 1, split)
