"""Table of TPU slices by Google Cloud's names, such as `v3-32`.

The number counts TensorCores up to v5p and chips for later generations, as in
Cloud TPU's documentation ("TPU versions").
"""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Generation:
  """A generation of TPUs.

  Attributes:
    prefix: prefix of its slices' names.
    resource: XManager's name of the chip (`xm.ResourceType`).
    sizes: sizes of its slices.
    runtime_version: software image of its TPU VMs.
    vertex: whether XManager's Vertex AI executor supports it.
    queued: whether its slices are requested as queued resources, as Cloud TPU's
      documentation advises; older ones are created directly.
    multislice: whether a run can have several slices (Cloud TPU Multislice: v4
      and later).
  """

  prefix: str
  resource: str
  sizes: Sequence[int]
  runtime_version: str
  vertex: bool = False
  queued: bool = False
  multislice: bool = False


def _powers_of_two(first: int, last: int) -> list[int]:
  return [2**i for i in range(20) if first <= 2**i <= last]


GENERATIONS = (
  Generation(
    'v2', 'TPU_V2', (8, *_powers_of_two(32, 512)), 'tpu-ubuntu2204-base', True
  ),
  Generation(
    'v3', 'TPU_V3', (8, *_powers_of_two(32, 2048)), 'tpu-ubuntu2204-base', True
  ),
  Generation(
    'v4',
    'TPU_V4',
    _powers_of_two(8, 4096),
    'tpu-ubuntu2204-base',
    multislice=True,
  ),
  Generation(
    'v5litepod',
    'TPU_V5E',
    (1, *_powers_of_two(4, 256)),
    'v2-alpha-tpuv5-lite',
    queued=True,
    multislice=True,
  ),
  Generation(
    'v5p',
    'TPU_V5P',
    (*_powers_of_two(8, 64), *range(128, 12289, 128)),
    'v2-alpha-tpuv5',
    queued=True,
    multislice=True,
  ),
  Generation(
    'v6e',
    'TPU_V6E',
    (1, *_powers_of_two(4, 256)),
    'v2-alpha-tpuv6e',
    queued=True,
    multislice=True,
  ),
)


@dataclasses.dataclass(frozen=True)
class TpuType:
  """A slice: `size` TensorCores or chips of a generation."""

  generation: Generation
  size: int

  @property
  def name(self) -> str:
    return f'{self.generation.prefix}-{self.size}'

  @property
  def one_host(self) -> bool:
    """Whether the slice has a single host."""
    return self.size <= 8


def parse(name: str) -> TpuType:
  """Parses the name of a slice, such as `v3-32` or `v5litepod-16`.

  Raises:
    ValueError: no such slice; the message lists the existing ones.
  """
  prefix, _, size = name.rpartition('-')
  for generation in GENERATIONS:
    if generation.prefix == prefix:
      if size.isdecimal() and int(size) in generation.sizes:
        return TpuType(generation, int(size))
      raise ValueError(
        f'--tpu_type={name}: no such slice; there are {_sizes(generation)}'
      )
  known = '; '.join(_sizes(generation) for generation in GENERATIONS)
  raise ValueError(f'--tpu_type={name}: no such TPU; known are {known}')


def _sizes(generation: Generation) -> str:
  sizes = list(generation.sizes)
  if len(sizes) > 20:
    shown = [*map(str, sizes[:6]), '...', str(sizes[-1])]
  else:
    shown = list(map(str, sizes))
  return f'{generation.prefix}-{{{",".join(shown)}}}'
