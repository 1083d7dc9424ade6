"""Lower bounds on the time of a program, and model FLOPs utilization.

The roofline (Williams et al. 2009): arithmetic, memory and network each take
their work divided by the chip's peak rate, and the longest of the three is a
lower bound on the time of a step. MFU, model FLOPs utilization, is the model's
arithmetic, by formula, divided by what all devices could do in that time
(Chowdhery et al. 2022, arXiv 2204.02311, appendix B).
"""

import dataclasses

from fnet_t5x.costs.chips import Chip
from fnet_t5x.planning.programs import Program

DAY = 24 * 60 * 60


@dataclasses.dataclass(frozen=True)
class Times:
  """Seconds that one run of a program takes.

  Attributes:
    arithmetic: for its matrix products and Fourier transforms.
    memory: for its HBM traffic.
    network: for what it sends, over all links of a device at once.
    compiler: the TPU compiler's own estimate, from its cycles, without
      collectives, most of which it overlaps; None from other compilers.
  """

  arithmetic: float
  memory: float
  network: float
  compiler: float | None

  @property
  def roofline(self) -> float:
    """Returns the lower bound on the time of a run."""
    return max(self.arithmetic, self.memory, self.network)


def times(program: Program, chip: Chip) -> Times:
  """Returns the times of a compiled program on a chip."""
  sent = 0.0
  for found in program.collectives:
    # A ring sends (n - 1) / n of the whole; an all-reduce does so twice.
    sent += found['bytes'] * (2 if found['kind'] == 'all-reduce' else 1)
  cycles = program.cost.cycles
  return Times(
    arithmetic=program.cost.flops / chip.flops,
    memory=program.cost.bytes / chip.bandwidth,
    network=sent / chip.network,
    compiler=cycles / chip.clock if cycles and chip.clock else None,
  )


def mfu(flops: float, seconds: float, devices: int, chip: Chip) -> float:
  """Returns the model FLOPs utilization.

  Args:
    flops: the model's FLOPs in that time, over all devices.
    seconds: the time.
    devices: number of devices.
    chip: their kind.
  """
  return flops / (seconds * devices * chip.flops)
