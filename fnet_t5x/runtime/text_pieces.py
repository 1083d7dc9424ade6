"""Text from tokens that come one by one, shown as soon as it is certain."""

from collections.abc import Callable, Sequence

# Stands for bytes that are no character, or none yet.
_REPLACEMENT = '\ufffd'


class TextPieces:
  """Decodes a growing list of tokens into pieces that together are its text.

  Tokens decode together: a space, or a byte of a character of several, waits
  for the next token. What may yet change is held back.
  """

  def __init__(self, decode: Callable[[Sequence[int]], str]):
    """Starts an empty text; `decode` turns all its tokens into text."""
    self._decode = decode
    self._tokens: list[int] = []
    self._shown = ''

  @property
  def tokens(self) -> list[int]:
    """The tokens so far."""
    return self._tokens

  def add(self, token: int) -> str:
    """Returns what a token adds to the text for certain; often ''."""
    self._tokens.append(token)
    text = self._decode(self._tokens).rstrip(_REPLACEMENT)
    # If the token changed what is shown already, wait what comes of it.
    if not text.startswith(self._shown):
      return ''
    return self._show(text)

  def finish(self) -> str:
    """Returns what was held back, bytes without a character as U+FFFD."""
    return self._show(self._decode(self._tokens) if self._tokens else '')

  def _show(self, text: str) -> str:
    """Returns the text behind what it has in common with the shown one."""
    common = 0
    for old, new in zip(self._shown, text, strict=False):
      if old != new:
        break
      common += 1
    self._shown = text
    return text[common:]
