"""From a program's work to its time, at best.

The roofline (Williams et al. 2009): arithmetic, memory and network each take
their work over the chip's peak rate, and the longest of the three is the least
that a step can take. The share of peak is the model's arithmetic, by formula,
over what all devices could do in the time (Chowdhery et al. 2022, arXiv
2204.02311, appendix B).
"""

import dataclasses

from fnet_t5x.planning.chips import Chip
from fnet_t5x.planning.programs import Program

DAY = 24 * 60 * 60


@dataclasses.dataclass(frozen=True)
class Times:
  """Seconds of a run of a program.

  Attributes:
    arithmetic: of its matrix products and Fourier transforms.
    memory: of its reads and writes of main memory.
    network: of what it sends, over all links of a device at once.
    compiler: the TPU compiler's own estimate, by its cycles; without
      collectives, most of which it overlaps. None where there is none.
  """

  arithmetic: float
  memory: float
  network: float
  compiler: float | None

  @property
  def roofline(self) -> float:
    """The least that a run can take."""
    return max(self.arithmetic, self.memory, self.network)


def times(program: Program, chip: Chip) -> Times:
  """Returns the times of a compiled program on a chip."""
  sent = 0.0
  for found in program.collectives:
    # A ring sends all but one part of n of the whole, and of a sum twice.
    sent += found['bytes'] * (2 if found['kind'] == 'all-reduce' else 1)
  cycles = program.work.cycles
  return Times(
    arithmetic=program.work.flops / chip.flops,
    memory=program.work.bytes / chip.bandwidth,
    network=sent / chip.network,
    compiler=cycles / chip.clock if cycles and chip.clock else None,
  )


def share_of_peak(
  flops: float, seconds: float, devices: int, chip: Chip
) -> float:
  """Returns the share of all devices' peak that arithmetic in a time is."""
  return flops / (seconds * devices * chip.flops)
