"""Devices to plan for: an absent TPU slice, or simulated devices.

`v4:4x4x8` is a TPU topology: libtpu compiles for it ahead of time on any
machine, without a TPU. `cpu:256` and `h100:8` are numbers of simulated devices:
JAX splits its CPU into that many devices, and XLA's CPU compiler partitions the
program as for that many GPUs, without GPU-specific optimizations. There may be
several slices of the same kind; simulated devices divide into consecutive ones.
"""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence

from fnet_t5x import command_line
from fnet_t5x.costs import chips

CPU = 'cpu'
# More simulated devices than this would take minutes to set up.
MAX_SIMULATED = 4096


@dataclasses.dataclass(frozen=True)
class Topology:
  """Value of `--topology`.

  Attributes:
    text: as given.
    chip: chip of the devices; None for plain CPU devices.
    shape: chips along each axis of a TPU slice, or the number of devices.
    num_slices: number of slices, each of this shape.
  """

  text: str
  chip: chips.Chip | None
  shape: tuple[int, ...]
  num_slices: int = 1

  @property
  def title(self) -> str:
    """Slices as people write them: `v5p:4x4x4`, `2 x v5p:4x4x4`."""
    if self.num_slices == 1:
      return self.text
    return f'{self.num_slices} x {self.text}'

  @property
  def simulated(self) -> int:
    """Number of simulated devices, 0 for TPU slices."""
    return 0 if self.is_tpu else self.shape[0] * self.num_slices

  @property
  def is_tpu(self) -> bool:
    """Whether it is a TPU slice, for which the real compiler is used."""
    return self.chip is not None and self.chip.backend == 'tpu'

  @property
  def backend(self) -> str:
    """JAX's name of the target platform."""
    return self.chip.backend if self.chip else CPU


def parse(text: str, num_slices: int = 1) -> Topology:
  """Parses `NAME:SHAPE`.

  Args:
    text: value of `--topology`.
    num_slices: value of `--num_slices`.

  Raises:
    ValueError: the format is wrong, the chip is unknown, or cannot be used in
      several slices.
  """
  match = re.fullmatch(r'([\w-]+):(\d+(?:x\d+)*)', text)
  if not match:
    raise ValueError(
      f'--topology={text}: write a TPU slice as v4:4x4x8, simulated devices as '
      'cpu:256 or h100:8'
    )
  name, shape = match[1], tuple(map(int, match[2].split('x')))
  chip = None if name == CPU else chips.find(name)
  topology = Topology(text, chip, shape, num_slices)
  if min(shape) < 1:
    raise ValueError(f'--topology={text}: a size must be at least 1')
  if topology.is_tpu and len(shape) not in (2, 3):
    raise ValueError(
      f'--topology={text}: a TPU slice has two or three sides, such as '
      f'{name}:4x4'
    )
  if not topology.is_tpu and (
    len(shape) > 1 or topology.simulated > MAX_SIMULATED
  ):
    raise ValueError(
      f'--topology={topology.title}: simulated devices are one number, at most '
      f'{MAX_SIMULATED}'
    )
  if num_slices > 1 and chip and not chip.slice_network:
    known = [each.name for each in chips.CHIPS.values() if each.slice_network]
    raise ValueError(
      f'--num_slices={num_slices}: no network between slices is known for '
      f'{name}; it is for {", ".join(known)}, and cpu to simulate'
    )
  return topology


def prepare(topologies: Sequence[Topology], thorough: bool = False) -> None:
  """Sets up JAX for the topologies, before its first use.

  Args:
    topologies: all topologies to plan for.
    thorough: whether the TPU compiler uses the effort of a real run, which
      takes about three times as long.

  Raises:
    ImportError: a topology is a TPU, and libtpu is not installed.
  """
  os.environ['JAX_PLATFORMS'] = CPU
  if any(each.is_tpu for each in topologies):
    if importlib.util.find_spec('libtpu') is None:
      raise ImportError(
        'libtpu, the TPU compiler, is not installed; it needs no TPU: '
        "pip install 'fnet_t5x[plan]'"
      )
    # No metadata server to query, and no TPU to lock.
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
    os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
    os.environ.setdefault('TPU_MIN_LOG_LEVEL', '3')
    if not thorough:
      import jax

      # -1 is the lowest effort. The programs are slower, not larger.
      jax.config.update('jax_exec_time_optimization_effort', -1.0)
  simulated = max(each.simulated for each in topologies)
  if simulated:
    import jax

    jax.config.update('jax_num_cpu_devices', simulated)


def devices(topology: Topology) -> list:
  """Returns the devices of the topology, for compilation only.

  Raises:
    ValueError: the TPU slice does not exist.
  """
  import jax

  if not topology.is_tpu:
    count = topology.simulated
    found = jax.devices(CPU)
    if len(found) < count:
      raise ValueError(
        f'--topology={topology.title}: JAX shows {len(found)} CPU devices; it '
        'was in use before'
      )
    return found[:count]
  from jax.experimental import topologies

  options = {'chip_config_name': topology.chip.tpu_config}
  if topology.num_slices > 1:
    options['num_slices'] = topology.num_slices
  if math.prod(topology.shape) < 4:
    # Less than a full host.
    sides = (*topology.shape, 1)[:3]
    options['chips_per_host_bounds'] = sides
  shape = 'x'.join(map(str, topology.shape))
  try:
    with command_line.stderr_held_back():
      return topologies.get_topology_desc(
        platform='tpu',
        topology_name=f'{topology.chip.name}:{shape}',
        **options,
      ).devices
  except jax.errors.JaxRuntimeError as error:
    reason = str(error).splitlines()[0].removeprefix('INVALID_ARGUMENT: ')
    raise ValueError(
      f'--topology={topology.text}: libtpu knows no such slice ({reason}); try '
      'v3:4x4, v4:4x4x8, v5e:4x4, v5p:4x4x4 or v6e:4x4'
    ) from error
