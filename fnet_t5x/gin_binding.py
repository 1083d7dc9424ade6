"""Parsing of a command-line binding `NAME = VALUE` by gin's own parser."""

import io
import tokenize

from gin import config_parser

# Errors of the parser for text that is not gin, or too deeply nested.
_PARSER_ERRORS = (
  SyntaxError,
  tokenize.TokenError,
  RecursionError,
  MemoryError,
)
# Maximum number of a value's characters in a message.
_SHOWN = 60


class _AnyName(config_parser.ParserDelegate):
  """Accepts every reference and every macro."""

  def configurable_reference(self, scoped_configurable_name, evaluate):
    return scoped_configurable_name

  def macro(self, macro_name):
    return macro_name


def parse(
  binding: str, delegate: config_parser.ParserDelegate | None = None
) -> config_parser.BindingStatement:
  """Parses one binding.

  Args:
    binding: `NAME = VALUE`.
    delegate: resolves references and macros in the value.

  Raises:
    ValueError: if it is not gin, or more than one binding: gin itself would
      also run the statements of further lines, imports included.
  """
  name, _, value = (part.strip() for part in binding.partition('='))
  try:
    statements = list(
      config_parser.ConfigParser(
        io.StringIO(f'{binding}\n'), delegate or _AnyName()
      )
    )
  except _PARSER_ERRORS as error:
    shown = _short(value)
    raise ValueError(
      f'--gin.{name}={shown}: {shown or "nothing"} is not a gin value; strings '
      f'need quotes: --gin.{name}="\'...\'"'
    ) from error
  if len(statements) != 1 or not isinstance(
    statements[0], config_parser.BindingStatement
  ):
    raise ValueError(
      f'{_short(binding)!r}: not one binding; give each binding its own flag'
    )
  return statements[0]


def _short(text: str) -> str:
  return text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'
