"""Pages of docs/ with generated tables between two marks."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

DOCS = pathlib.Path(__file__).parents[1] / 'docs'
END = '<!-- End of tables -->'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
  """Returns a Markdown table of a text column and numeric columns."""
  rule = ['---', *['---:'] * (len(heads) - 1)]
  return [f'| {" | ".join(cells)} |' for cells in (heads, rule, *rows)]


def with_tables(page: str, text: str, mark: str) -> str:
  """Returns the page with the text between its two marks.

  Args:
    page: text of the page.
    text: tables to insert.
    mark: first mark; the other is `END`.

  Raises:
    ValueError: if the page lacks a mark.
  """
  before, begin, rest = page.partition(mark)
  _, end, after = rest.partition(END)
  if not (begin and end):
    raise ValueError(f'the page has no {END if begin else mark!r}')
  return f'{before}{mark}\n\n{text}\n\n{END}{after}'
