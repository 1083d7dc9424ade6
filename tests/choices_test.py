"""Settings that are one of a few words."""

from typing import Literal

import pytest

from fnet_t5x.choices import check_choice

Colour = Literal['red', 'blue']


def test_a_choice_passes():
  for value in ('red', 'blue'):
    check_choice('colour', value, Colour)


@pytest.mark.parametrize('value', ['green', 'Red', '', None])
def test_another_value_is_named_with_the_choices(value):
  with pytest.raises(ValueError, match=f'colour={value!r}.*red, blue'):
    check_choice('colour', value, Colour)
