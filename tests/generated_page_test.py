"""Pages of docs/ with generated tables between two marks."""

import pytest

from fnet_t5x import generated_page
from fnet_t5x.generated_page import END


def test_what_is_between_the_marks_is_replaced():
  page = f'before\n<!-- x -->\nold\n{END}\nafter\n'
  new = generated_page.with_tables(page, '| new |', '<!-- x -->')
  assert new == f'before\n<!-- x -->\n\n| new |\n\n{END}\nafter\n'
  assert generated_page.with_tables(new, '| new |', '<!-- x -->') == new


def test_a_page_without_marks_is_rejected():
  with pytest.raises(ValueError, match='End of tables'):
    generated_page.with_tables('<!-- x -->\n', 'text', '<!-- x -->')
  with pytest.raises(ValueError, match='<!-- x -->'):
    generated_page.with_tables(f'{END}\n', 'text', '<!-- x -->')


def test_the_first_column_of_a_table_is_text():
  assert generated_page.table(['a', 'b', 'c'], [['x', '1', '2']]) == [
    '| a | b | c |',
    '| --- | ---: | ---: |',
    '| x | 1 | 2 |',
  ]
