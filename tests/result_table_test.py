"""Tables printed to a file."""

import io

from rich.console import Console

from fnet_t5x import result_table


def test_a_table_is_as_wide_as_its_numbers():
  file = io.StringIO()
  title = 'a title of more than forty columns, which is one line all the same'
  number = '1,234,567,890,123,456,789,012,345'
  result_table.print_table(
    title,
    ['', 'first', 'second'],
    [[['a row', number, number]], [['another row', '1', '2']]],
    Console(file=file, width=40),
  )
  lines = file.getvalue().splitlines()
  assert lines[0] == title
  assert sum(line.count(number) for line in lines) == 2
  assert len({len(line) for line in lines[1:]}) == 1
