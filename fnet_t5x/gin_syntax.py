"""One-line errors for files that are not gin."""

import contextlib
import tokenize
from collections.abc import Iterator


@contextlib.contextmanager
def one_line_errors(name: str) -> Iterator[None]:
  """Names file and line of what gin's parser cannot read.

  Args:
    name: the file, for errors without a file name.

  Raises:
    ValueError: in place of the parser's own errors.
  """
  try:
    yield
  except SyntaxError as error:
    line = ' '.join((error.text or '').split())
    raise ValueError(
      f'{error.filename or name}, line {error.lineno}: not gin: {line!r}; '
      'correct that line'
    ) from error
  except tokenize.TokenError as error:
    raise ValueError(
      f'{name}: a bracket or quotes are not closed; correct it'
    ) from error
  except (RecursionError, MemoryError) as error:
    raise ValueError(
      f'{name}: brackets or includes nested too deeply; correct it'
    ) from error
