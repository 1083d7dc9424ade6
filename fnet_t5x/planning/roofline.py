"""Roofline of a program, and model FLOPs utilization.

Roofline (Williams et al. 2009): FLOPs, HBM bytes, network bytes within a slice
and those between slices are each divided by the chip's peak rate; the longest
of the times is a lower bound on the time of a step. MFU, model FLOPs
utilization, is the model's FLOPs by formula divided by what all devices could
do in that time (Chowdhery et al. 2022, arXiv 2204.02311, appendix B).
"""

import dataclasses

from fnet_t5x.costs.chips import Chip
from fnet_t5x.planning.programs import Program

DAY = 24 * 60 * 60


@dataclasses.dataclass(frozen=True)
class Times:
  """Seconds per run of a program.

  Attributes:
    arithmetic: of its matrix products and Fourier transforms.
    memory: of its HBM traffic.
    network: of its collectives, over all links of a device in parallel.
    slice_network: of what crosses slices, on the network between them.
    compiler: the TPU compiler's estimate, from its cycles, without collectives,
      most of which are overlapped; None from other compilers.
  """

  arithmetic: float
  memory: float
  network: float
  slice_network: float
  compiler: float | None

  @property
  def roofline(self) -> float:
    """Returns the lower bound on the time of a run."""
    return max(self.arithmetic, self.memory, self.network, self.slice_network)


def times(program: Program, chip: Chip) -> Times:
  """Returns the times of a compiled program on a chip."""
  sent = crossed = 0.0
  for found in program.collectives:
    crossed += found.get('slice_bytes', 0.0)
    if not found.get('within_slice', True):
      continue
    # A ring sends (n - 1) / n of the bytes, here 1; an all-reduce twice that.
    sent += found['bytes'] * (2 if found['kind'] == 'all-reduce' else 1)
  cycles = program.cost.cycles
  return Times(
    arithmetic=program.cost.flops / chip.flops,
    memory=program.cost.bytes / chip.bandwidth,
    network=sent / chip.network,
    slice_network=crossed / chip.slice_network if crossed else 0.0,
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
