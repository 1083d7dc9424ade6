"""Collectives of a compiled program, from its HLO text."""

import dataclasses
import re
from collections.abc import Iterator

from fnet_t5x.planning import program_text

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


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective instruction of one device's program.

  Attributes:
    kind: one of KINDS.
    bytes: of its operand or its result on one device, whichever is larger: the
      whole that an all-gather makes, that a reduce-scatter takes.
    times: how often a run of the program executes it.
    op_name: the JAX operation it came from, '' if unknown.
  """

  kind: str
  bytes: int
  times: int
  op_name: str


def collectives(hlo_text: str) -> list[dict[str, str | int]]:
  """Returns what one device takes part in, `{'kind', 'count', 'bytes'}` each.

  Args:
    hlo_text: of a compiled program: `compiled.as_text()`. A program that is
      only lowered names no collectives.

  A kind that does not occur is not listed. `bytes` is the sum of
  `Collective.bytes`; what crosses a link depends on the algorithm and the
  number of devices. Counts are those of `find_collectives`.
  """
  totals = {}
  for found in find_collectives(hlo_text):
    count, size = totals.get(found.kind, (0, 0))
    totals[found.kind] = (
      count + found.times,
      size + found.times * found.bytes,
    )
  return [
    {'kind': kind, 'count': count, 'bytes': size}
    for kind, (count, size) in sorted(totals.items())
  ]


def find_collectives(hlo_text: str) -> list[Collective]:
  """Returns the collectives that a run of a compiled program executes.

  What stands in the body of a loop counts once a trip where the compiler wrote
  down the number of trips, or where the loop counts up to a constant (as that
  of `lax.scan`, from 0 by ones), else once. Of the branches
  of a conditional, the one with most bytes counts.

  Raises:
    ValueError: the text is no HLO module.
  """
  computations, entry = program_text.parse(hlo_text)
  if entry is None:
    raise ValueError(
      'this is no text of a compiled HLO module: it has no ENTRY computation'
    )
  return list(_walk(computations, entry, 1))


def _walk(computations, name, times) -> Iterator[Collective]:
  body = computations.get(name, {})
  for instruction in body.values():
    opcode = instruction.opcode
    if found := _collective(body, instruction, times):
      yield found
    elif opcode == 'while':
      inner = times * program_text.trips(computations, instruction)
      for attribute in ('condition', 'body'):
        for callee in program_text.called(instruction, attribute):
          yield from _walk(computations, callee, inner)
    elif opcode == 'conditional':
      branches = [
        list(_walk(computations, callee, times))
        for callee in program_text.branches(instruction)
      ]
      yield from max(branches, key=_size, default=())
    # The done of an asynchronous call names the computation of its start.
    elif opcode not in ('async-done', 'async-update'):
      for callee in program_text.called(instruction, 'calls', 'to_apply'):
        yield from _walk(computations, callee, times)


def _collective(body, instruction, times):
  # An asynchronous pair is counted at its done, whose shape is the result's.
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
  return Collective(
    kind=kind,
    bytes=max(taken, program_text.array_bytes(instruction.shape)),
    times=times,
    op_name=op_name[1] if op_name else '',
  )


def _size(found):
  return sum(each.times * each.bytes for each in found)
