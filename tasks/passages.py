"""Splitting of documents into passages, the unit held out of small corpora."""

from collections.abc import Iterator

# Preferred ends of a passage, best first; the delimiter stays in the passage.
_ENDS = (b'\n\n', b'\n', b' ')


def passages(text: bytes, size: int) -> Iterator[bytes]:
  """Splits a text into passages whose concatenation is the text.

  A passage ends after the last blank line within `size` bytes, else after the
  last line, else after the last word, if it then has at least half of the
  bytes; otherwise within a word, but never within a character.

  Args:
    text: UTF-8.
    size: maximum bytes of a passage, at least 8.

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
  # Bytes 10xxxxxx continue a character.
  while text[stop] & 0xC0 == 0x80 and stop > half:
    stop -= 1
  return stop
