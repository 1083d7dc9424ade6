"""Roofline: each time is bytes or FLOPs over a rate of the chip."""

from fnet_t5x.costs import chips
from fnet_t5x.planning import hlo, programs, roofline


def test_what_crosses_slices_has_a_time_of_its_own():
  program = programs.Program(
    'train step',
    tokens=1,
    cost=hlo.Cost(flops=459e12 * 1.0, bytes=2765e9 * 2.0),
    collectives=(
      {'kind': 'all-gather', 'count': 1, 'bytes': 600e9},
      # Of the TPU compiler: its reduce-scatter and all-gather are separate.
      {
        'kind': 'all-reduce',
        'count': 1,
        'bytes': 12.5e9,
        'slice_bytes': 12.5e9,
        'within_slice': False,
      },
      # Of other compilers: one all-reduce, in slices and between them.
      {
        'kind': 'all-reduce',
        'count': 1,
        'bytes': 300e9,
        'slice_bytes': 6.25e9,
        'within_slice': True,
      },
    ),
  )
  times = roofline.times(program, chips.find('v5p'))
  assert (times.arithmetic, times.memory, times.network) == (1.0, 2.0, 2.0)
  # 50 Gbit/s per chip.
  assert times.slice_network == times.roofline == 3.0


def test_one_slice_needs_no_network_between_slices():
  program = programs.Program(
    'train step',
    tokens=1,
    collectives=({'kind': 'all-reduce', 'count': 1, 'bytes': 225e9},),
  )
  times = roofline.times(program, chips.find('h100'))
  assert (times.network, times.slice_network) == (1.0, 0.0)
