"""Bindings of the command line: exactly one statement each."""

import gin
import pytest

from fnet_t5x import gin_binding
from fnet_t5x.runtime import gin_utils


@pytest.mark.parametrize(
  'binding', ['A = 1', "a/b.C.d = {'x': [%B, @f()]}", 'A =\\\n  3', 'A = (\n1)']
)
def test_one_binding_passes(binding):
  assert gin_binding.parse(binding).selector in ('A', 'b.C')


MORE_THAN_ONE = (
  'A = 1\nimport os',
  'A = 1\nfrom __gin__ import dynamic_registration\nimport os\n',
  "A = 1\ninclude 'gin/models/t5_small.gin'",
  'A = 1\nB = 2',
  'import os',
)


@pytest.mark.parametrize('binding', MORE_THAN_ONE)
def test_more_than_one_binding_is_refused(binding):
  with pytest.raises(ValueError, match='not one binding') as error:
    gin_binding.parse(binding)
  assert '\n' not in str(error.value)


def test_nothing_follows_a_binding_into_a_run(tmp_path):
  """Without the check, gin would run an import on a second line."""
  (tmp_path / 'run.gin').write_text('A = 0\n')
  gin.clear_config()
  try:
    with pytest.raises(ValueError, match='not one binding'):
      gin_utils.parse_gin_flags(
        [str(tmp_path)], ['run.gin'], ['A = 1\nimport os\nB = 2']
      )
    assert gin_utils.macros_set() == {'A'}
  finally:
    gin.clear_config()


@pytest.mark.parametrize('depth', [100, 500, 20000])
@pytest.mark.parametrize('brackets', ['()', '[]'])
def test_thousands_of_brackets_are_one_short_line(brackets, depth):
  value = brackets[0] * depth + brackets[1] * depth
  try:
    gin_binding.parse(f'A = {value}')
  except ValueError as error:
    assert 'is not a gin value' in str(error)
    assert len(str(error)) < 300
  else:
    assert depth == 100
