"""Consistency of the table of chips with the vendors' hardware figures."""

import pytest

from fnet_t5x.costs import chips


@pytest.mark.parametrize(
  ('name', 'units'), [('v3', 2), ('v4', 8), ('v5e', 4), ('v5p', 8)]
)
def test_peak_is_what_the_matrix_units_do_in_a_cycle(name, units):
  # Units of 128 x 128, each with a multiplication and an addition per cycle; a
  # device of v3 is one of two cores.
  chip = chips.find(name)
  assert chip.flops == pytest.approx(
    units * 128 * 128 * 2 * chip.clock, rel=0.01
  )


def test_every_kind_of_device_finds_its_own_peak():
  for chip in chips.CHIPS.values():
    assert chips.peak_flops(chip.device_kind) == chip.flops
    assert 0.7 * chip.memory < chip.available < chip.memory


def test_a_chip_that_is_not_there_is_named_with_those_that_are():
  with pytest.raises(ValueError, match=r"'v7x'.* v3, v4, .*h200") as error:
    chips.find('v7x')
  assert '\n' not in str(error.value)
  with pytest.raises(ValueError, match=r'did you mean v5p\?'):
    chips.find('v5pp')
