"""One binding `NAME = VALUE` of the command line, by gin's own parser."""

import io
import tokenize

from gin import config_parser

# What the parser raises for text that is no gin, or too deeply nested.
NO_GIN = (SyntaxError, tokenize.TokenError, RecursionError, MemoryError)
# Characters of a value that a message shows.
_SHOWN = 60


class _Anything(config_parser.ParserDelegate):
  """Takes every reference and every macro."""

  def configurable_reference(self, scoped_configurable_name, evaluate):
    return scoped_configurable_name

  def macro(self, macro_name):
    return macro_name


def parse(
  binding: str, delegate: config_parser.ParserDelegate | None = None
) -> config_parser.BindingStatement:
  """Returns the statement that a binding is.

  Args:
    binding: `NAME = VALUE`.
    delegate: what makes values of the references and macros in it.

  Raises:
    ValueError: it is no gin, or more than one binding: gin itself takes
      whatever stands in further lines, imports among it.
  """
  name, _, value = (part.strip() for part in binding.partition('='))
  try:
    statements = list(
      config_parser.ConfigParser(
        io.StringIO(f'{binding}\n'), delegate or _Anything()
      )
    )
  except NO_GIN as error:
    shown = _short(value)
    raise ValueError(
      f'--gin.{name}={shown}: {shown or "nothing"} is no gin value; text needs '
      f'quotes: --gin.{name}="\'...\'"'
    ) from error
  if len(statements) != 1 or not isinstance(
    statements[0], config_parser.BindingStatement
  ):
    raise ValueError(
      f'{_short(binding)!r}: not one binding; give each its own flag'
    )
  return statements[0]


def _short(text: str) -> str:
  return text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'
