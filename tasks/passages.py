"""Passages of a document: what is held out of a corpus of few documents."""

from collections.abc import Iterator

# Where a passage may end, best first; each mark stays with what it ends.
_ENDS = (b'\n\n', b'\n', b' ')


def passages(text: bytes, size: int) -> Iterator[bytes]:
  """Cuts a text into passages that together are the text.

  A passage ends behind the last blank line of its `size` bytes, else behind
  the last line, else behind the last word, if that leaves at least half of
  them; else in the middle of a word, but of no character.

  Args:
    text: UTF-8.
    size: most bytes of a passage, at least 8.

  Yields:
    Passages, none of them empty; the last one may be short.
  """
  start = 0
  while len(text) - start > size:
    stop = _end(text, start, start + size)
    yield text[start:stop]
    start = stop
  if start < len(text):
    yield text[start:]


def _end(text: bytes, start: int, stop: int) -> int:
  half = start + (stop - start) // 2
  for mark in _ENDS:
    found = text.rfind(mark, half, stop)
    if found >= 0:
      return found + len(mark)
  # Bytes 10xxxxxx go on with a character that began before them.
  while text[stop] & 0xC0 == 0x80 and stop > half:
    stop -= 1
  return stop
