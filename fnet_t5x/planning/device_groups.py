"""Groups of devices that take part in a collective, from its HLO text.

Compilers write them in three ways: as a list; as an array of all devices, in
order or transposed, whose rows are the groups; or as a mesh and the axes along
which devices communicate.
"""

import math
import re

import numpy as np

_LISTED = re.compile(
  r'(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)*)\}'
)
# [groups,size]<=[dims]T(order): row-major over dims, transposed, reshaped.
_ARRAY = re.compile(
  r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?'
)
# mesh['a'=4,'b'=2], device_ids=([dims]T(order)) {'a'}
_MESH = re.compile(
  r'replica_groups=mesh\[([^\]]*)\]'
  r'(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}'
)
# 'a', or of an axis of size 8 the part 'a':(2)2 of 2 x 2 x 2.
_AXIS = re.compile(r"'(\w+)'(?::\((\d+)\)(\d+))?")


def parse(attributes: str) -> list[list[int]]:
  """Returns the groups, as positions of devices in the program's order.

  A collective-permute has a group for each pair of sender and receiver.

  Args:
    attributes: of an instruction, `replica_groups=...`.

  Returns:
    The groups; [] if the text names none, which means that all devices are one.

  Raises:
    ValueError: they are written in an unknown way.
  """
  if written := _ARRAY.search(attributes):
    shape, dims, order = written.groups()
    return _devices(dims, order).reshape(_numbers(shape)).tolist()
  if written := _MESH.search(attributes):
    return _of_mesh(*written.groups())
  if written := _LISTED.search(attributes):
    groups = re.findall(r'\{([\d,]+)\}', written[1])
    return [_numbers(group) for group in groups]
  if 'replica_groups=' in attributes:
    raise ValueError(
      'the compiler writes groups of devices in an unknown way: '
      + attributes[attributes.index('replica_groups=') :][:80]
    )
  return []


def _of_mesh(mesh, dims, order, axes):
  chosen = {name: part for name, *part in _AXIS.findall(axes)}
  shape, along = [], []
  for name, size in re.findall(r"'(\w+)'=(\d+)", mesh):
    parts = [1, int(size), 1]
    if name in chosen and chosen[name][0]:
      before, inside = map(int, chosen[name])
      parts = [before, inside, int(size) // (before * inside)]
    if name in chosen:
      along.append(len(shape) + 1)
    shape += parts
  devices = _devices(dims or str(math.prod(shape)), order).reshape(shape)
  others = [axis for axis in range(len(shape)) if axis not in along]
  group = math.prod(shape[axis] for axis in along)
  return devices.transpose(others + along).reshape(-1, group).tolist()


def _devices(dims, order):
  devices = np.arange(math.prod(_numbers(dims))).reshape(_numbers(dims))
  return devices.transpose(_numbers(order)) if order else devices


def _numbers(written):
  return [int(number) for number in written.split(',')]
