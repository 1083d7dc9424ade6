"""Passages: lossless, short enough, ending at natural breaks."""

import numpy as np
import pytest

from fnet_t5x.tasks import passages


@pytest.mark.parametrize('size', [8, 9, 31, 100, 1000])
@pytest.mark.parametrize(
  'alphabet', ['ab \n', 'a', 'é☃😀', 'word \n\n', '\n', ' ']
)
def test_passages_are_the_text(size, alphabet):
  rng = np.random.default_rng(0)
  text = ''.join(rng.choice(list(alphabet), 700)).encode()
  cut = list(passages.passages(text, size))
  assert b''.join(cut) == text
  assert all(0 < len(passage) <= size for passage in cut)
  for passage in cut:
    passage.decode()  # No character is split.


def test_a_passage_ends_at_the_best_place():
  def cut(text):
    return list(passages.passages(text, 16))

  assert cut(b'aaaa bbb\n\ncc\ndd ee ff') == [b'aaaa bbb\n\n', b'cc\ndd ee ff']
  assert cut(b'aaaa bbbb\nccc dd eeee') == [b'aaaa bbbb\n', b'ccc dd eeee']
  assert cut(b'aaaa bbbb cccc ddddd') == [b'aaaa bbbb cccc ', b'ddddd']
  # A break in the first half would leave too little.
  assert cut(b'a\n\nbbbbbbb cccccccccc') == [b'a\n\nbbbbbbb ', b'cccccccccc']


def test_short_and_empty_texts():
  assert list(passages.passages(b'', 8)) == []
  assert list(passages.passages(b'12345678', 8)) == [b'12345678']
