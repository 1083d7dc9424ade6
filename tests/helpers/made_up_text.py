"""Text that no corpus holds."""

import random

# Made-up words: no test depends on the text of the real corpus.
_SYLLABLES = (
  'fel low cit i zen sen ate house rep re sent a tive great sat is fac tion'
  ' meet gain con gress con sid er state un ion com merce trea sury peace war'
)


def paragraphs(seed: int, words: int) -> str:
  """Returns paragraphs of made-up words."""
  rng = random.Random(seed)
  syllables = _SYLLABLES.split()
  text = []
  for i in range(1, words + 1):
    text.append(''.join(rng.choices(syllables, k=rng.randint(1, 4))))
    if i % 40 == 0:
      text.append('\n\n')
  return ' '.join(text)
