"""Values of gin macros, in Python."""

import gin
import pytest

from fnet_t5x import gin_macros


@gin.configurable(module='gin_macros_test')
def number(value=1):
  return value


def test_references_are_resolved():
  gin.parse_config(
    'A = @gin_macros_test.number()\nB = [%A, 3]\ngin_macros_test.number.value=2'
  )
  assert gin_macros.value('B') == [2, 3]
  assert gin_macros.value('A') == 2
  gin.parse_config('A = 5')
  assert gin_macros.value('B') == [5, 3]


def test_a_macro_that_is_not_set_is_named():
  gin.parse_config('A = %LATER')
  for name in ('A', 'LATER'):
    with pytest.raises(TypeError, match='LATER'):
      gin_macros.value(name)
