"""Collectives of a compiled program, from its HLO text.

Of several slices, the TPU compiler splits an all-reduce into a reduce-scatter
in each slice, an exchange of the parts between slices by their hosts, and an
all-gather in each slice. Other compilers leave one all-reduce over all devices,
which counts as if it were split so.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence

import numpy as np

from fnet_t5x.planning import device_groups, program_text

KINDS = (
  'all-gather',
  'all-reduce',
  'all-to-all',
  'collective-broadcast',
  'collective-permute',
  'ragged-all-to-all',
  'reduce-scatter',
)
_OP_NAME = re.compile(r'op_name="([^"]*)"')
# The TPU compiler's transfer to other slices, through the host.
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


@dataclasses.dataclass(frozen=True)
class Collective:
  """Collective instruction in the program of a device.

  Attributes:
    kind: one of KINDS.
    bytes: bytes per device of its operand or result, whichever is larger: the
      result of an all-gather, the operand of a reduce-scatter.
    times: number of executions per run of the program.
    op_name: the JAX operation it came from, '' if unknown.
    slices: number of slices that take part; 1 stays within a slice.
    devices_per_slice: devices of each slice that take part.
    within_slice: whether it also loads the links within a slice; False for the
      TPU compiler's transfers between slices.
  """

  kind: str
  bytes: int
  times: int
  op_name: str
  slices: int = 1
  devices_per_slice: int = 1
  within_slice: bool = True

  @property
  def slice_bytes(self) -> float:
    """Bytes that a device sends to other slices, at least.

    A ring of n slices sends (n - 1) / n of the bytes, an all-reduce twice that;
    the devices of a slice share it. An all-to-all sends the part for devices of
    other slices, and a permutation everything.
    """
    if self.slices == 1:
      return 0.0
    others = (self.slices - 1) / self.slices
    if self.kind in ('all-to-all', 'ragged-all-to-all'):
      return self.bytes * others
    if self.kind == 'collective-permute':
      return float(self.bytes)
    twice = 2 if self.kind == 'all-reduce' else 1
    return self.bytes * twice * others / self.devices_per_slice


def collectives(
  hlo_text: str, slices: Sequence[int] | None = None
) -> list[dict[str, str | int | float]]:
  """Returns the collectives of a device by kind, as {'kind', 'count', 'bytes'}.

  Kinds that do not occur are omitted. `bytes` is the sum of `Collective.bytes`;
  the traffic on a link depends on the algorithm and the number of devices.
  Executions are counted as in `find_collectives`. Collectives that cross slices
  are apart, with `slice_bytes`, the sum of `Collective.slice_bytes`, and
  `within_slice`.

  Args:
    hlo_text: of a compiled program: `compiled.as_text()`. A program that is
      only lowered has no collectives.
    slices: the slice of each device, in the mesh's order; None for one slice.
  """
  totals = {}
  for found in find_collectives(hlo_text, slices):
    key = (found.kind, found.slices > 1, found.within_slice)
    total = totals.setdefault(key, np.zeros(3))
    total += found.times * np.array([1, found.bytes, found.slice_bytes])
  rows = []
  for (kind, crosses, within), total in sorted(totals.items()):
    row = {'kind': kind, 'count': int(total[0]), 'bytes': int(total[1])}
    if crosses:
      row |= {'slice_bytes': float(total[2]), 'within_slice': within}
    rows.append(row)
  return rows


def find_collectives(
  hlo_text: str, slices: Sequence[int] | None = None
) -> list[Collective]:
  """Returns the collectives that a run of a compiled program executes.

  Collectives in the body of a loop count once per trip if the compiler states
  the trip count or the loop counts up to a constant (like `lax.scan`, from 0 in
  steps of 1), otherwise once. Of the branches of a conditional, the one with
  the most bytes counts.

  Args:
    hlo_text: of a compiled program.
    slices: the slice of each device, in the mesh's order; None for one slice.

  Raises:
    ValueError: the text is not an HLO module.
  """
  computations, entry = program_text.parse(hlo_text)
  if entry is None:
    raise ValueError(
      'not the text of a compiled HLO module: it has no ENTRY computation'
    )
  return list(_walk(computations, entry, 1, slices))


def _walk(computations, name, times, slices) -> Iterator[Collective]:
  body = computations.get(name, {})
  for instruction in body.values():
    opcode = instruction.opcode
    if found := _collective(body, instruction, times, slices):
      yield found
    elif opcode == 'while':
      inner = times * program_text.trips(computations, instruction)
      for attribute in ('condition', 'body'):
        for callee in program_text.called(instruction, attribute):
          yield from _walk(computations, callee, inner, slices)
    elif opcode == 'conditional':
      branches = [
        list(_walk(computations, callee, times, slices))
        for callee in program_text.branches(instruction)
      ]
      yield from max(branches, key=_size, default=())
    # The -done of an asynchronous call names the computation of its -start.
    elif opcode not in ('async-done', 'async-update'):
      for callee in program_text.called(instruction, 'calls', 'to_apply'):
        yield from _walk(computations, callee, times, slices)


def _collective(body, instruction, times, slices):
  if instruction.opcode == 'send':
    return _transfer(body, instruction, times, slices)
  # An asynchronous pair is counted at its -done, whose shape is the result's.
  kind = instruction.opcode.removesuffix('-done')
  if kind not in KINDS:
    return None
  source = instruction
  if kind != instruction.opcode:
    source = body.get(instruction.operands[0], instruction)
  taken = sum(
    program_text.array_bytes(body[operand].shape)
    for operand in source.operands
    if operand in body
  )
  op_name = _OP_NAME.search(source.attributes)
  crossed, per_slice = _crossed(source.attributes, slices)
  return Collective(
    kind=kind,
    bytes=max(taken, program_text.array_bytes(instruction.shape)),
    times=times,
    op_name=op_name[1] if op_name else '',
    slices=crossed,
    devices_per_slice=per_slice,
  )


def _transfer(body, instruction, times, slices):
  """Returns the TPU compiler's transfer between slices, or None."""
  found = _BETWEEN_SLICES.search(instruction.attributes)
  operand = body.get(instruction.operands[0])
  if slices is None or not found or operand is None:
    return None
  kind = found[1].lower().replace('_', '-')
  if kind not in KINDS:
    # ONE_TO_ONE, to one other slice.
    kind = 'collective-permute'
  op_name = _OP_NAME.search(instruction.attributes)
  count, size = len(set(slices)), program_text.array_bytes(operand.shape)
  return Collective(
    kind=kind,
    # The result of an all-gather has the operands of all slices.
    bytes=size * count if kind == 'all-gather' else size,
    times=times,
    op_name=op_name[1] if op_name else '',
    slices=count,
    within_slice=False,
  )


def _crossed(attributes, slices):
  """Returns the most slices that a group has, and its devices per slice."""
  if slices is None:
    return 1, 1
  spans = []
  groups = device_groups.parse(attributes) or [range(len(slices))]
  for group in groups:
    present = [slices[device] for device in group]
    spans.append((len(set(present)), len(present) // len(set(present))))
  return max(spans)


def _size(found):
  return sum(each.times * each.bytes for each in found)
